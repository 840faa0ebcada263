"""Merge models: check that they match, put the experts in an order of their own, and merge tensor by tensor."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
import xxhash
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.ground.errors import ConfigError, DataError, did_you_mean
from pomona.merging.config import MergeConfig, Parents
from pomona.merging.matching import aliases, require_same_anatomy, require_same_tensors, require_same_ties

FloatType = Literal["float32", "bfloat16", "float16"]
"""Name of the dtype that merged weights are stored in."""

Model = TypeVar("Model")


def merge(
    base: Model,
    experts: Sequence[Model],
    method: str | MergeConfig = "linear",
    *,
    dtype: FloatType | None = None,
    **parameters: Any,
) -> Model:
    """Merge models in memory. The parents stay as they are.

    Args:
        base: the model that the experts were trained from: a state dict, a transformers model or its anatomy.
        experts: at least one, of the same kind.
        method: slug of a method, whose parameters follow, or its configuration.
        dtype: of the merged weights. Default: that of the base. The arithmetic is in a wider one.
    Returns:
        What `base` is, new: a state dict, a model or an anatomy. Tied weights are tied in it.
    Raises:
        ConfigError: an unknown method or parameter, or one that does not fit the number of experts.
        UnsupportedModel: the models do not match; every difference is named.
        DataError: a parent holds a number that is not finite.
    Example:
        >>> states = [{"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}]
        >>> merge(states[0], states[1:], "task-arithmetic", scale=0.5)
        {'w': tensor([2.])}
    """
    config = method if isinstance(method, MergeConfig) else named(method, **parameters)
    config.check(len(experts))
    labels = [f"expert {number}" for number in range(1, len(experts) + 1)]
    if isinstance(base, Mapping):
        states: list[Any] = list(experts)
        return _merged_state(base, states, config, labels, dtype)  # type: ignore[return-value]
    bodies = [model if isinstance(model, Anatomy) else anatomy.of(model) for model in (base, *experts)]
    require_same_anatomy(bodies[0], bodies[1:], labels)
    own, *others = (body.model.state_dict() for body in bodies)
    merged = copy.deepcopy(bodies[0].model)
    if dtype is not None:
        merged = merged.to(getattr(torch, dtype))
    merged.load_state_dict(_merged_state(own, others, config, labels, dtype))
    return anatomy.of(merged, bodies[0].shape) if isinstance(base, Anatomy) else merged  # type: ignore[return-value]


def named(method: str, **parameters: Any) -> MergeConfig:
    """The configuration of a method of this room, by its slug. Raises `ConfigError` with the nearest names."""
    found: dict[str, type[MergeConfig]] = {}
    package = importlib.import_module("pomona.merging")
    for module in pkgutil.iter_modules(package.__path__):
        for value in vars(importlib.import_module(f"pomona.merging.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, MergeConfig) and "method" in value.__annotations__:
                found[str(value.model_fields["method"].default)] = value
    slug = method.replace("_", "-")
    if slug not in found:
        raise ConfigError(f"unknown merging method {method!r}", do=did_you_mean(slug, found))
    return found[slug].parse(parameters, slug)


def _merged_state(
    base: Mapping[str, Tensor],
    experts: Sequence[Mapping[str, Tensor]],
    config: MergeConfig,
    labels: Sequence[str],
    dtype: FloatType | None,
) -> dict[str, Tensor]:
    """The merged state dict."""
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (base, *experts)]
    require_same_tensors(shapes[0], shapes[1:], labels)
    require_same_ties(base, experts, labels)
    first = aliases(base)
    names = list(dict.fromkeys(first.values()))
    merged = dict(merged_tensors(in_order(base, experts, config, names, ["the base", *labels]), config, dtype))
    return {name: merged[first[name]] for name in base}


def in_order(
    base: Mapping[str, Tensor],
    experts: Sequence[Mapping[str, Tensor]],
    config: MergeConfig,
    names: Sequence[str],
    labels: Sequence[str],
) -> Parents:
    """The parents, with experts in an order that depends on their content (and weights) alone.

    Sums of floats and random masks depend on an order; so they do not depend on the one in which experts are given.

    Args:
        names: of the tensors to merge. They are read up to the first in which all experts differ.
        labels: of the base, then of the experts.
    """
    weights = config.factors(len(experts))
    groups = [sorted(range(len(experts)), key=lambda place: weights[place])]
    names = sorted(names)
    for name in names:
        if len(groups) == len(experts):
            break
        groups = [finer for group in groups for finer in _by_content(group, experts, name)]
    order = [place for group in groups for place in group]
    return Parents(
        base=base,
        experts=tuple(experts[place] for place in order),
        weights=tuple(weights[place] for place in order),
        names=tuple(names),
        labels=(labels[0], *(labels[1 + place] for place in order)),
    )


def merged_tensors(
    parents: Parents, config: MergeConfig, dtype: FloatType | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Merge one tensor after another; only one is in memory at a time where the parents are read from disk."""
    with torch.no_grad():
        merge_tensor = config.merger(parents)
    for name in parents.names:
        base, experts = parents.base[name], [expert[name] for expert in parents.experts]
        if not base.is_floating_point():
            _require_equal(name, base, experts, parents.labels)
            yield name, base.clone()
            continue
        with torch.no_grad():
            merged = merge_tensor(name, base, experts).to(base.dtype if dtype is None else getattr(torch, dtype))
        if not bool(merged.isfinite().all()):
            raise _not_finite(name, [base, *experts], parents.labels)
        yield name, merged


def _by_content(group: list[int], experts: Sequence[Mapping[str, Tensor]], name: str) -> list[list[int]]:
    """The experts of a group that are equal in one tensor together, in the order of its hash."""
    if len(group) == 1:
        return [group]
    hashes = {place: _hash(experts[place][name]) for place in group}
    return [[place for place in group if hashes[place] == value] for value in sorted({*hashes.values()})]


def _hash(tensor: Tensor) -> int:
    """A hash of a tensor's numbers: the same for 16-bit floats and for the same numbers in float32."""
    numbers = tensor.detach().float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor.detach()
    return xxhash.xxh3_64_intdigest(numbers.cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _require_equal(name: str, base: Tensor, experts: Sequence[Tensor], labels: Sequence[str]) -> None:
    for label, expert in zip(labels[1:], experts, strict=True):
        if not torch.equal(expert, base):
            raise DataError(
                f"{name} of {label} differs from the base and cannot be merged",
                needs="floating-point weights",
                found=str(base.dtype),
                do="make it equal in all models, or leave the expert out",
            )


def _not_finite(name: str, tensors: Sequence[Tensor], labels: Sequence[str]) -> DataError:
    """Who is to blame for a merged tensor with NaN or infinity."""
    for label, tensor in zip(labels, tensors, strict=True):
        if not bool(tensor.isfinite().all()):
            return DataError(
                f"{name} of {label} holds numbers that are not finite", found="NaN or infinity", do="leave it out"
            )
    return DataError(
        f"{name} becomes too large for its dtype when it is merged", do="choose a smaller scale, or dtype: bfloat16"
    )
