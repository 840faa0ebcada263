"""Spaces and axes: what the numbers along one side of a weight stand for.

A `Space` is a set of interchangeable coordinates, such as the hidden features or the attention heads of one block. An
`Axis` is one side of a weight: a product of spaces, outermost first, as (head, head_dim) for the outputs of a query
projection. Two weights that name the same space must be permuted and cut together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

INTERCHANGEABLE = frozenset(
    {
        "residual",
        "head",
        "kv_head",
        "head_dim",
        "value_dim",
        "feed_forward",
        "expert",
        "embedding",
        "pooled",
        "channel",
    }
)
"""Names of the spaces whose coordinates may change places, unless something in a model stands against it."""


@dataclass(frozen=True)
class Space:
    """A set of coordinates that several weights share.

    Args:
        name: residual, head, kv_head, head_dim (features that queries and keys compare), value_dim (features that
            values carry to the output projection), feed_forward, expert; outside of the blocks embedding, pooled,
            channel (all of these are interchangeable); vocabulary, position, token_type, bucket, distance,
            label, pixel, tap, block, layer (the blocks and what enters the first) and others that are told apart from
            outside.
        size: number of coordinates.
        scope: the part of the model in which it lives: "" for all of it, else as "decoder.blocks.3.attention".
        parent: a coarser space whose coordinates own equal runs of this one: a key-value head owns its query heads.
    """

    name: str
    size: int
    scope: str = ""
    parent: Space | None = None

    def __str__(self) -> str:
        return f"{self.name}[{self.size}]" + (f" of {self.scope}" if self.scope else "")


@dataclass(frozen=True)
class Axis:
    """One side of a weight: a product of spaces, outermost first."""

    spaces: tuple[Space, ...]

    @property
    def size(self) -> int:
        return math.prod(space.size for space in self.spaces)

    @property
    def name(self) -> str:
        return "*".join(space.name for space in self.spaces)

    def has(self, space: Space) -> bool:
        """True when a permutation of `space` moves coordinates of this axis, directly or through a child space."""
        return any(space in (own, own.parent) for own in self.spaces)

    def indices(self, space: Space, order: Tensor) -> Tensor:
        """The coordinates of this axis in their new order when `space` is reordered or cut to `order`.

        Args:
            space: a space for which `has` is true.
            order: (new size,) int64, old coordinates of `space` in their new order.
        Returns:
            (new axis size,) int64, to be used with `index_select`.
        """
        sizes, moved = self._split_at(space)
        grid = torch.arange(self.size, device=order.device).view(sizes)
        return grid.index_select(moved, order).flatten()

    def owners(self, space: Space) -> Tensor:
        """(axis size,) int64: to which coordinate of `space` each coordinate of this axis belongs."""
        sizes, moved = self._split_at(space)
        own = torch.arange(space.size).view([-1 if dim == moved else 1 for dim in range(len(sizes))])
        return own.expand(sizes).flatten()

    def _split_at(self, space: Space) -> tuple[list[int], int]:
        """The sizes of this axis with `space` among them, and its place there."""
        sizes: list[int] = []
        moved = -1
        for own in self.spaces:
            if own == space:
                moved = len(sizes)
                sizes.append(own.size)
            elif own.parent is not None and own.parent == space:
                moved = len(sizes)
                sizes += [space.size, own.size // space.size]
            else:
                sizes.append(own.size)
        assert moved >= 0, f"{space} is not on the axis {self.name}"
        return sizes, moved

    def __str__(self) -> str:
        return self.name
