"""Whether models can be merged: the same anatomy, tensor by tensor. What differs is named before anything is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pomona.anatomy import Anatomy, Weight
from pomona.ground.errors import UnsupportedModel

SHOWN = 8
"""Differences that an error lists."""

_HARMLESS = re.compile(
    r"drop|token_id|dtype|initializ|label|^_|^output_|^return_|cache|aux_loss|gradient_checkpointing|problem_type|"
    r"^(architectures|transformers_version|task_specific_params|finetuning_task|quantization_config)$"
)
"""Fields of a configuration that do not change what the weights compute."""


def require_same_anatomy(base: Anatomy, experts: Sequence[Anatomy], labels: Sequence[str]) -> None:
    """Raise `UnsupportedModel` that names every difference of experts from the base. Reads no weights."""
    lines = [
        f"{label}: {line}" for label, other in zip(labels, experts, strict=True) for line in differences(base, other)
    ]
    _refuse(lines, "the same anatomy as the base: shape, sizes of all spaces, and settings that the weights rely on")


def require_same_tensors(
    base: Mapping[str, tuple[int, ...]], experts: Sequence[Mapping[str, tuple[int, ...]]], labels: Sequence[str]
) -> None:
    """The same for the names and shapes of tensors alone."""
    lines = []
    for label, other in zip(labels, experts, strict=True):
        lines += [f"{label}: {name} is missing" for name in base if name not in other]
        lines += [f"{label}: {name} is not in the base" for name in other if name not in base]
        both = [name for name in base if name in other and base[name] != other[name]]
        lines += [f"{label}: {name} is {_times(other[name])}, in the base {_times(base[name])}" for name in both]
    _refuse(lines, "the same tensors in the same shapes as the base")


def differences(base: Anatomy, other: Anatomy) -> list[str]:
    """In what another model's anatomy differs from that of the base, one line for each kind of difference."""
    classes = type(base.model).__name__, type(other.model).__name__
    if classes[0] != classes[1]:
        return [f"is a {classes[1]}, the base a {classes[0]}"]
    if base.shape.name != other.shape.name:
        return [f"has the shape {other.shape.name!r}, the base {base.shape.name!r}"]
    depths = [
        f"has {len(its.blocks)} {own.name}, the base {len(own.blocks)}"
        for own, its in zip(base.stacks, other.stacks, strict=True)
        if len(own.blocks) != len(its.blocks)
    ]
    return [*depths, *_sizes(base, other), *_unseen(base, other), *_settings(base, other)]


def _sizes(base: Anatomy, other: Anatomy) -> Iterator[str]:
    """Spaces of another size, each kind once, with the first weight that shows it."""
    own, its = _parts(base), _parts(other)
    found: dict[tuple[str, int, int], list[str]] = {}
    for key, weight in own.items():
        if key not in its:
            found.setdefault(("", 0, 0), []).append(weight.name)
            continue
        spaces = zip(_spaces(weight), _spaces(its[key]), strict=True)
        for (name, size), (_, other_size) in spaces:
            if size != other_size:
                found.setdefault((name, size, other_size), []).append(weight.name)
    alone = [weight.name for key, weight in its.items() if key not in own]
    if len(base.blocks) == len(other.blocks):
        if alone:
            yield f"{_first(alone)} not in the base"
        if missing := found.pop(("", 0, 0), None):
            yield f"{_first(missing)} missing"
    else:
        found.pop(("", 0, 0), None)
    for (name, size, other_size), names in found.items():
        yield f"{_first(names)} with {name} {other_size}, in the base {size}"


def _parts(body: Anatomy) -> dict[tuple[str, str], Weight]:
    return {(part.name, part.role): part for part in body.parts()}


def _spaces(weight: Weight) -> list[tuple[str, int]]:
    return [(space.name, space.size) for axis in weight.axes for space in axis.spaces]


def _unseen(base: Anatomy, other: Anatomy) -> Iterator[str]:
    """Parameters that the anatomy does not cover, by name and shape."""
    own = {name: tuple(base.model.get_parameter(name).shape) for name in base.unseen}
    its = {name: tuple(other.model.get_parameter(name).shape) for name in other.unseen}
    for name in sorted({*own, *its}):
        if own.get(name) != its.get(name):
            shown = [_times(shapes[name]) if name in shapes else "absent" for shapes in (its, own)]
            yield f"{name} is {shown[0]}, in the base {shown[1]}"


def _settings(base: Anatomy, other: Anatomy) -> Iterator[str]:
    """Fields of the configuration with another value that are no sizes of spaces, which are named already."""
    own, its = base.config.to_dict(), other.config.to_dict()
    sized = any(True for _ in _sizes(base, other)) or len(base.blocks) != len(other.blocks)
    for name in sorted({*own, *its}):
        if _HARMLESS.search(name) or own.get(name) == its.get(name):
            continue
        if not (sized and _is_size(own.get(name))):
            yield f"{name} is {its.get(name)}, in the base {own.get(name)}"


def _is_size(value: Any) -> bool:
    """Whether a field may say what differing sizes have said."""
    return isinstance(value, int | list) and not isinstance(value, bool)


def aliases(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Every name of a state dict -> the first name of the same storage: tied weights are merged once."""
    first: dict[tuple[Any, ...], str] = {}
    found = {}
    for name, tensor in state.items():
        own = tensor.numel() == 0 or tensor.is_meta
        where = (name,) if own else (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        found[name] = first.setdefault(where, name)
    return found


def require_same_ties(
    base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], labels: Sequence[str]
) -> None:
    """Raise `UnsupportedModel` where tensors are one in the base and differ in an expert."""
    lines = []
    for name, first in aliases(base).items():
        for label, expert in zip(labels, experts, strict=True):
            if name != first and not torch.equal(expert[name], expert[first]):
                lines.append(f"{label}: {name} differs from {first}, to which it is tied in the base")
    _refuse(lines, "weights that are tied in the base to be tied in the experts")


def _refuse(lines: Sequence[str], needs: str) -> None:
    if lines:
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        raise UnsupportedModel(
            "these models cannot be merged (nothing was read)",
            needs=needs,
            found="\n         ".join([*lines[:SHOWN], *more]),
            do="merge models that were trained from one base, and give that base",
        )


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) if shape else "a number"
