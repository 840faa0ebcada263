"""Permute a space: reorder the same coordinates in every weight that names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pomona.anatomy.space import INTERCHANGEABLE, Space
from pomona.anatomy.weight import Weight
from pomona.ground.errors import UnsupportedModel

if TYPE_CHECKING:
    from pomona.anatomy.body import Anatomy


def permutable(body: Anatomy, space: Space) -> bool:
    """Whether a permutation of `space`, applied to all of its weights, leaves what the model computes unchanged."""
    return hindrance(body, space) is None


def hindrance(body: Anatomy, space: Space) -> str | None:
    """What stands against permuting a space: half a sentence, or None when its coordinates are interchangeable.

    Tables that are indexed from outside (vocabulary, positions, token types, distances) are fixed; so are features of
    queries and keys under rotary positions, which turn them in fixed pairs, and what the declaration says to be `Fast`.
    """
    if space.name not in INTERCHANGEABLE:
        return "its coordinates are told apart from outside"
    if space.name == "head_dim":
        attentions = (a for block in body.blocks for a in (block.attention, block.cross_attention))
        if any(a.rotary for a in attentions if a is not None and a.head_dim == space):
            return "rotary positions turn its features in fixed pairs"
    return next((fast.why for fast in body.fast if fast.space == space.name), None)


def permute_(body: Anatomy, space: Space, order: Tensor) -> None:
    """Put coordinate `order[i]` of a space in place i, in every weight that names it; logits stay as they are.

    Args:
        order: (size,) int64, a permutation. Query heads stay with their key-value head, features with their expert.
    Raises:
        UnsupportedModel: the model computes something else after a permutation of this space. Nothing was changed.
        ValueError: not a permutation, or one that mixes groups.
    """
    found = hindrance(body, space)
    if found is None and space == body.residual and body.unseen:
        found = f"parameters that the declaration does not cover may read it: {', '.join(body.unseen[:3])}"
    if found is not None:
        raise UnsupportedModel(
            f"{space} of {type(body.model).__name__} cannot be permuted (nothing was changed)",
            needs="a space whose coordinates are interchangeable",
            found=found,
            do=f"choose one of {', '.join(sorted({s.name for s in body.spaces() if permutable(body, s)}))}",
        )
    if not body.members(space):
        raise ValueError(f"no weight of {type(body.model).__name__} names {space}")
    if sorted(order.tolist()) != list(range(space.size)):
        raise ValueError(f"{order.tolist()} is not a permutation of the {space.size} coordinates of {space}")
    if space.parent is not None:
        group = space.size // space.parent.size
        if not torch.equal(order // group, torch.arange(space.size) // group):
            raise ValueError(f"{order.tolist()} moves coordinates of {space} between those of {space.parent}")
    reorder_(body, space, order)


def reorder_(body: Anatomy, space: Space, order: Tensor, left_out: tuple[Weight, int] | None = None) -> None:
    """`permute_` without its checks, and without one member of the space."""
    for weight, dim in body.members(space):
        if left_out is None or (weight, dim) != left_out:
            index = weight.axes[dim].indices(space, order)
            weight.write_(weight.read().index_select(dim, index.to(weight.parameter.device)))


def derangement(space: Space, generator: torch.Generator) -> Tensor | None:
    """A random permutation without fixed points, within groups where there are any; None when there is none."""
    groups = 1 if space.parent is None else space.parent.size
    size = space.size // groups
    if size < 2:
        return None
    # A cycle through all coordinates in random order has no fixed point.
    orders = []
    for group in range(groups):
        cycle = torch.randperm(size, generator=generator)
        order = torch.empty(size, dtype=torch.int64)
        order[cycle] = cycle.roll(1)
        orders.append(order + group * size)
    return torch.cat(orders)
