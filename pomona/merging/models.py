"""Merge models in memory: find the method, check that the models match, and merge tensor by tensor."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.ground.errors import ConfigError, did_you_mean
from pomona.merging.config import MergeConfig
from pomona.merging.driver import FloatType, in_order, merging
from pomona.merging.matching import aliases, require_same_anatomy, require_same_tensors, require_same_ties

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
    models: list[Any] = [model.model if isinstance(model, Anatomy) else model for model in (base, *experts)]
    require_same_anatomy(models[0], models[1:], labels)
    own, *others = (model.state_dict() for model in models)
    merged = copy.deepcopy(models[0])
    if dtype is not None:
        merged = merged.to(getattr(torch, dtype))
    merged.load_state_dict(_merged_state(own, others, config, labels, dtype))
    return anatomy.of(merged, base.shape) if isinstance(base, Anatomy) else merged  # type: ignore[return-value]


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
    merged = merging(in_order(base, experts, config, names, ["the base", *labels]), config, dtype)
    made = {name: merged(name) for name in names}
    return {name: made[first[name]] for name in base}
