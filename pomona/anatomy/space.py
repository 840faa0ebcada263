"""Spaces and axes: what the numbers along one side of a weight stand for.

A `Space` is a set of interchangeable coordinates, such as the hidden features or the attention heads of one block. An
`Axis` is one side of a weight: a product of spaces, outermost first, as (head, head_dim) for the outputs of a query
projection. Two weights that name the same space must be permuted and cut together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

INTERCHANGEABLE = frozenset(
    {
        "residual",
        "head",
        "kv_head",
        "head_dim",
        "value_dim",
        "latent",
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
            values carry to the output projection), latent (features of which keys and values, or queries, are made),
            feed_forward, expert; outside of the blocks embedding, pooled,
            channel (all of these are interchangeable); vocabulary, position, token_type, bucket, distance,
            label, pixel, tap, layer (what enters the first block and what each gives) and others that are told apart
            from outside.
        size: number of coordinates.
        scope: the part of the model in which it lives: "" for all of it, else as "decoder.blocks.3.attention".
        parent: a coarser space whose coordinates own equal runs of this one: a key-value head owns its query heads.
    """

    name: str
    size: int
    scope: str = ""
    parent: Space | None = None

    def following(self, space: Space, order: Tensor) -> Tensor | None:
        """Its coordinates in their new order when `space`, itself or its parent, is put in `order`; else None."""
        if self == space:
            return order
        if self.parent is None or self.parent != space:
            return None
        run = self.size // space.size
        return (order[:, None] * run + torch.arange(run, device=order.device)).flatten()

    def __str__(self) -> str:
        return f"{self.name}[{self.size}]" + (f" of {self.scope}" if self.scope else "")


@dataclass(frozen=True)
class Axis:
    """One side of a weight: a product of spaces, outermost first.

    Args:
        joined: the spaces lie one after another instead (a sum): the heads of all blocks, for one.
    """

    spaces: tuple[Space, ...]
    joined: bool = False

    @property
    def size(self) -> int:
        return self.size_with([space.size for space in self.spaces])

    def size_with(self, sizes: Sequence[int]) -> int:
        """Its size when those of its spaces are `sizes`."""
        return sum(sizes) if self.joined else math.prod(sizes)

    @property
    def name(self) -> str:
        return ("+" if self.joined else "*").join(space.name for space in self.spaces)

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
        assert self.has(space), f"{space} is not on the axis {self.name}"
        return self.gathered([own.following(space, order) for own in self.spaces])

    def owners(self, space: Space) -> Tensor:
        """(axis size,) int64: to which coordinate of `space` each coordinate of this axis, a product, belongs."""
        assert self.has(space) and not self.joined, f"{space} does not divide the axis {self.name}"
        place = next(place for place, own in enumerate(self.spaces) if space in (own, own.parent))
        own, inner = self.spaces[place], math.prod(later.size for later in self.spaces[place + 1 :])
        return torch.arange(self.size) // inner % own.size // (own.size // space.size)

    def gathered(self, kept: Sequence[Tensor | None]) -> Tensor:
        """(new size,) int64: the coordinates of this axis when each space has these of its own; None: all, in order."""
        device = next((indices.device for indices in kept if indices is not None), None)
        own = [
            torch.arange(space.size, device=device) if indices is None else indices
            for space, indices in zip(self.spaces, kept, strict=True)
        ]
        if self.joined:
            starts = accumulate((space.size for space in self.spaces[:-1]), initial=0)
            return torch.cat([start + indices for start, indices in zip(starts, own, strict=True)])
        grid = torch.arange(self.size, device=device).view([space.size for space in self.spaces])
        for dim, indices in enumerate(own):
            grid = grid.index_select(dim, indices)
        return grid.flatten()

    def __str__(self) -> str:
        return self.name
