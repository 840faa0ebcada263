"""Following: what every weight becomes when coordinates of spaces are kept, copied or left out.

A change of a space says which old coordinate each new one is, and by what its readers multiply it. A weight follows
along each of its axes: what writes a coordinate is copied, what reads it is copied times the factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pomona.anatomy.space import Axis, Space
from pomona.anatomy.weight import Norm, Weight
from pomona.ground.errors import UnsupportedModel

if TYPE_CHECKING:
    from pomona.anatomy.body import Anatomy

Key = object
"""What tells two views of the same numbers: `Weight.key`."""


@dataclass(frozen=True)
class Change:
    """New coordinate j of a space (or of an axis) is old coordinate `source[j]`.

    Args:
        source: (new size,) int64.
        factor: (new size,) what readers multiply it by, or None for 1.
    """

    source: Tensor
    factor: Tensor | None = None


Changes = Mapping[Space, Change]


def change_of(space: Space, changes: Changes) -> Change | None:
    """The change of a space: its own, or that of its parent, whose coordinates own equal runs of it; else None."""
    for owner in (space, space.parent):
        if owner is not None and (change := changes.get(owner)) is not None:
            source = space.following(owner, change.source)
            assert source is not None
            run = len(source) // len(change.source)
            return Change(source, None if change.factor is None else change.factor.repeat_interleave(run))
    return None


def change_along(axis: Axis, changes: Changes) -> Change | None:
    """What becomes of a whole axis; None when it stays."""
    own = [change_of(space, changes) for space in axis.spaces]
    if not any(own):
        return None
    source = axis.gathered([None if change is None else change.source for change in own])
    if all(change is None or change.factor is None for change in own):
        return Change(source)
    factors = [_factor(space, change) for space, change in zip(axis.spaces, own, strict=True)]
    if axis.joined:
        return Change(source, torch.cat(factors))
    return Change(source, reduce(lambda a, b: torch.outer(a, b).flatten(), factors))


def _factor(space: Space, change: Change | None) -> Tensor:
    """(new size,) float64: what readers of a space multiply it by."""
    if change is None or change.factor is None:
        return torch.ones(space.size if change is None else len(change.source), dtype=torch.float64)
    return change.factor.double()


@dataclass(frozen=True)
class Scale:
    """What the rows of a weight are multiplied by: one number, or one to each row of the new weight.

    A norm multiplies by offset + gain; it is that sum which is scaled.
    """

    rows: Tensor
    offset: float = 0.0

    def __call__(self, values: Tensor) -> Tensor:
        rows = self.rows.to(values)
        if rows.dim():
            rows = rows.view(-1, *[1] * (values.dim() - 1))
        return (values + self.offset) * rows - self.offset


def values_after(part: Weight, changes: Changes, scales: Mapping[Key, list[Scale]]) -> Tensor:
    """The values of a weight after the changes, in its new canonical shape."""
    values = part.read()
    for dim, axis in enumerate(part.axes):
        change = change_along(axis, changes)
        if change is None:
            continue
        values = values.index_select(dim, change.source.to(values.device))
        if change.factor is not None and part.kind == "linear" and dim == 1:
            values = values * change.factor.to(values)
    for scale in scales.get(part.key, ()):
        values = scale(values)
    return values


def scales(old: Anatomy, new: Anatomy, changes: Changes) -> dict[Key, list[Scale]]:
    """What else is multiplied, by the key of the old weight.

    Queries read a head's features by their product with the keys. A tied head cannot be scaled apart from the
    embedding: the norm before it is. And what a model derives from a size by itself (the factors of scores, embeddings
    and logits) is undone.

    Raises:
        UnsupportedModel: a tied head would have to be scaled, and no norm comes before it.
    """
    found: dict[Key, list[Scale]] = {}

    def scale(part: Weight | None, rows: Tensor | float, offset: float = 0.0) -> None:
        rows = torch.as_tensor(rows, dtype=torch.float64)
        if part is not None and not bool((rows == 1).all()):
            found.setdefault(part.key, []).append(Scale(rows, offset))

    def scale_norm(norm: Norm, rows: Tensor | float) -> None:
        scale(norm.gain, rows, norm.offset)
        scale(norm.bias, rows)

    for attention, after in zip(old.attentions(), new.attentions(), strict=True):
        change = change_of(attention.head_dim, changes)
        if change is None:
            continue
        own = torch.ones(len(change.source)) if change.factor is None else change.factor
        rows = own.double() * (attention.scaling / after.scaling)
        if attention.query_norm is not None:
            axis = after.query_norm.gain.axes[0] if after.query_norm else after.query.axes[0]
            scale_norm(attention.query_norm, rows.repeat(axis.size // len(rows)))
        else:
            # What is projected of relative positions meets keys as a query does.
            for side in (attention.query, attention.position_query):
                for part in () if side is None else side.weights():
                    scale(part, rows.repeat(after.num_heads))

    change = changes.get(old.residual)
    embedding = _ratio(old.embedding_scale, new.embedding_scale)
    if change is not None and old.head is not None and old.head.axes[1].has(old.residual):
        logits = math.prod(_ratio(a, b) for a, b in zip(old.head_scales, new.head_scales, strict=True))
        if old.embedding is None or old.head.parameter is not old.embedding.parameter:
            scale(old.head, logits)
        else:
            own = torch.ones(len(change.source)) if change.factor is None else change.factor
            rows = own.double() * (logits / embedding)
            if not bool((rows == 1).all()):
                scale_norm(_norm_before_head(old), rows)
    scale(old.embedding, embedding)
    return found


def _ratio(old: float, new: float) -> float:
    return 1.0 if math.isclose(old, new) else old / new


def _norm_before_head(body: Anatomy) -> Norm:
    """The norm whose outputs only the head reads."""
    norm = body.head_norm
    if norm is None:
        raise UnsupportedModel(
            f"the residual space of {type(body.model).__name__} cannot change so (nothing was changed)",
            needs="a norm right before the tied head, or a head of its own",
            found=f"{body.embedding.name if body.embedding else None}, which is embedding and head at once",
            do='choose readers="copy", or untie the head',
        )
    return norm
