"""Whether models can be merged: the same anatomy, tensor by tensor. What differs is named before anything is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy, Weight
from pomona.ground.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHOWN = 8
"""Differences that an error lists."""

_HARMLESS = re.compile(
    r"drop|token_id|dtype|initializ|label|^_|^output_|^return_|cache|aux_loss|gradient_checkpointing|problem_type|"
    r"^(architectures|transformers_version|task_specific_params|finetuning_task|quantization_config)$"
)
"""Fields of a configuration that do not change what the weights compute."""


def require_same_anatomy(base: PreTrainedModel, experts: Sequence[PreTrainedModel], labels: Sequence[str]) -> None:
    """Raise `UnsupportedModel` that names every difference of experts from the base. Reads no weights."""
    lines = [
        f"{label}: {line}" for label, other in zip(labels, experts, strict=True) for line in differences(base, other)
    ]
    refuse(lines, "the same anatomy as the base: shape, sizes of all spaces, and settings that the weights rely on")


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
    refuse(lines, "the same tensors in the same shapes as the base")


def differences(base: PreTrainedModel, other: PreTrainedModel) -> list[str]:
    """In what another model differs from the base, one line for each kind of difference."""
    classes = type(base).__name__, type(other).__name__
    if classes[0] != classes[1]:
        return [f"is a {classes[1]}, the base a {classes[0]}"]
    own, its = anatomy.towers(base), anatomy.towers(other)
    if own.keys() != its.keys():
        return [f"has the shape {' and '.join(its)}, the base {' and '.join(own)}"]
    lines = [line for name in own for line in _parts_that_differ(own[name], its[name])]
    return [*lines, *_settings(base.config.to_dict(), other.config.to_dict(), sized=bool(lines))]


def _parts_that_differ(base: Anatomy, other: Anatomy) -> Iterator[str]:
    for own, its in zip(base.stacks, other.stacks, strict=True):
        if len(own.blocks) != len(its.blocks):
            yield f"has {len(its.blocks)} {own.name}, the base {len(own.blocks)}"
    yield from _sizes(base, other)
    yield from _unseen(base, other)


def _sizes(base: Anatomy, other: Anatomy) -> Iterator[str]:
    """Weights that are not in both, and spaces of another size, each kind once with the first weight that shows it."""
    own, its = _parts(base), _parts(other)
    if len(base.blocks) == len(other.blocks):
        if more := [weight.name for key, weight in its.items() if key not in own]:
            yield f"{_first(more)} not in the base"
        if missing := [weight.name for key, weight in own.items() if key not in its]:
            yield f"{_first(missing)} missing"
    found: dict[tuple[str, int, int], list[str]] = {}
    for key in [key for key in own if key in its]:
        for (name, size), (_, other_size) in zip(_spaces(own[key]), _spaces(its[key]), strict=True):
            if size != other_size:
                found.setdefault((name, size, other_size), []).append(own[key].name)
    for (name, size, other_size), names in found.items():
        yield f"{_first(names)} with {name} {other_size}, in the base {size}"


def _parts(body: Anatomy) -> dict[tuple[str, str], Weight]:
    return {(part.name, part.role): part for part in body.parts()}


def _spaces(weight: Weight) -> list[tuple[str, int]]:
    sides = [
        [(axis.spaces[0].name, axis.size)] if axis.joined else [(s.name, s.size) for s in axis.spaces]
        for axis in weight.axes
    ]
    return [each for side in sides for each in side]


def _unseen(base: Anatomy, other: Anatomy) -> Iterator[str]:
    """Parameters that the anatomy does not cover, by name and shape."""
    own = {name: tuple(base.model.get_parameter(name).shape) for name in base.unseen}
    its = {name: tuple(other.model.get_parameter(name).shape) for name in other.unseen}
    for name in sorted({*own, *its}):
        if own.get(name) != its.get(name):
            shown = [_times(shapes[name]) if name in shapes else "absent" for shapes in (its, own)]
            yield f"{name} is {shown[0]}, in the base {shown[1]}"


def _settings(base: Mapping[str, Any], other: Mapping[str, Any], sized: bool, above: str = "") -> Iterator[str]:
    """Fields of the configuration with another value; without those that differing sizes have named already."""
    for name in sorted({*base, *other}):
        own, its = base.get(name), other.get(name)
        if _HARMLESS.search(name) or own == its:
            continue
        if isinstance(own, dict) and isinstance(its, dict):
            yield from _settings(own, its, sized, f"{above}{name}.")
        elif not (sized and _is_size(own)):
            yield f"{above}{name} is {its}, in the base {own}"


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
    refuse(lines, "weights that are tied in the base to be tied in the experts")


def refuse(lines: Sequence[str], needs: str) -> None:
    """Raise `UnsupportedModel` that lists what does not match, if anything."""
    if lines:
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        raise UnsupportedModel(
            "these models cannot be merged (nothing was made)",
            needs=needs,
            found="\n         ".join([*lines[:SHOWN], *more]),
            do="merge models that were trained from one base, and give that base",
        )


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) if shape else "a number"
