"""The three sparse shapes of attention heads, and the keys that they keep for a given prompt.

Offline, a head has a shape and a budget. Online, `find` looks at the queries and keys of the prompt and names the keys:
`Kept` holds them as columns (keys that every later query sees), distances (query minus key), and pairs of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from pomona.ground.config import Config

BLOCK = 64
"""Queries or keys that are handled together."""
LAST = 64
"""Last queries of the prompt, from which the columns and distances that matter are estimated."""
SINKS, NEAR = 30, 100
"""First keys and nearest distances that a vertical-slash head always keeps."""
FEWEST = (30, 50)
"""Least numbers of columns and of distances."""


class AShape(Config):
    """The first keys and the nearest ones, whatever the prompt is."""

    shape: Literal["a_shape"] = "a_shape"
    initial: NonNegativeInt = 1024
    """First keys that every query sees."""
    local: PositiveInt = 4096
    """Nearest keys that a query sees, its own among them."""

    def scaled(self, factor: float) -> AShape:
        """With budgets times a factor."""
        return AShape(initial=round(self.initial * factor), local=max(1, round(self.local * factor)))

    def find(self, query_TH: Tensor, key_TH: Tensor, scaling: float) -> Kept:
        """The keys that are kept; queries and keys are looked at for their number alone."""
        tokens = len(key_TH)
        return Kept(
            torch.arange(min(self.initial, tokens), device=key_TH.device),
            torch.arange(tokens, device=key_TH.device) < self.local,
        )


class VerticalSlash(Config):
    """Columns and distances that the last queries of the prompt look at most."""

    shape: Literal["vertical_slash"] = "vertical_slash"
    vertical: PositiveInt = 1000
    """Columns: keys that every later query sees."""
    slash: PositiveInt = 6096
    """Distances between query and key."""

    def scaled(self, factor: float) -> VerticalSlash:
        """With budgets times a factor."""
        return VerticalSlash(vertical=max(1, round(self.vertical * factor)), slash=max(1, round(self.slash * factor)))

    def find(self, query_TH: Tensor, key_TH: Tensor, scaling: float) -> Kept:
        """The keys that are kept, by the attention of the last queries."""
        return self.choose(*last_attention(query_TH, key_TH, scaling))

    def choose(self, columns_T: Tensor, distances_T: Tensor) -> Kept:
        """The same, from what `last_attention` gives."""
        tokens = len(columns_T)
        vertical, slash = (
            min(tokens, max(count, least)) for count, least in zip((self.vertical, self.slash), FEWEST, strict=True)
        )
        columns, distances = columns_T.clone(), distances_T.clone()
        columns[:SINKS], distances[:NEAR] = torch.inf, torch.inf
        seen = torch.zeros(tokens, dtype=torch.bool, device=columns.device)
        seen[distances.topk(slash, sorted=False).indices] = True
        return Kept(columns.topk(vertical, sorted=False).indices.sort().values, seen)


class BlockSparse(Config):
    """For each block of queries the blocks of keys whose means agree most with its own."""

    shape: Literal["block_sparse"] = "block_sparse"
    blocks: PositiveInt = 100
    """Blocks of keys that a block of queries sees, its own among them or besides."""

    def scaled(self, factor: float) -> BlockSparse:
        """With budgets times a factor."""
        return BlockSparse(blocks=max(1, round(self.blocks * factor)))

    def find(self, query_TH: Tensor, key_TH: Tensor, scaling: float) -> Kept:
        """The keys that are kept, by the products of block means."""
        query, key = block_means(query_TH), block_means(key_TH)
        count = len(key)
        later = torch.ones(count, count, dtype=torch.bool, device=key.device).triu(1)
        scores = (query @ key.T * scaling).masked_fill(later, -torch.inf)
        seen = torch.zeros_like(later).scatter_(1, scores.topk(min(self.blocks, count), 1).indices, True)
        seen = (seen & ~later).fill_diagonal_(True)
        nothing = torch.zeros(len(key_TH), dtype=torch.bool, device=key.device)
        return Kept(torch.arange(0, device=key.device), nothing, seen)


Pattern = Annotated[AShape | VerticalSlash | BlockSparse, Field(discriminator="shape")]


@dataclass(frozen=True, eq=False)
class Kept:
    """The pairs of query and key, never later than the query, that a head keeps.

    Attributes:
        columns: (C,) ascending keys that every query from their place on sees.
        distances: (T,) bool, whether a query sees the key so many places before it.
        blocks: (T / 64, T / 64) bool of blocks of queries and blocks of keys, or None.
    """

    columns: Tensor
    distances: Tensor
    blocks: Tensor | None = None

    @property
    def tokens(self) -> int:
        return len(self.distances)

    def mask(self, rows: slice | None = None) -> Tensor:
        """(rows, T) bool: which keys these queries, by default all, see. The definition that kernels are held to."""
        places = torch.arange(self.tokens, device=self.distances.device)
        queries = places if rows is None else places[rows]
        distance = queries[:, None] - places
        seen = self.distances[distance.clamp(min=0)]
        seen[:, self.columns] = True
        if self.blocks is not None:
            seen |= self.blocks[queries[:, None] // BLOCK, places // BLOCK]
        return seen & (distance >= 0)

    def tiles(self) -> Tensor:
        """(T / 64, T / 64) bool: blocks of queries and keys that share a pair, columns apart."""
        count = -(-self.tokens // BLOCK)
        device = self.distances.device
        if self.blocks is not None:
            return self.blocks
        # Distance 64 d + r lies d blocks back, and d + 1 for the first r queries of a block.
        padded = torch.zeros(count * BLOCK, dtype=torch.bool, device=device)
        padded[: self.tokens] = self.distances
        cells = padded.view(count, BLOCK)
        back = cells.any(1)
        back[1:] |= cells[:-1, 1:].any(1)
        steps = torch.arange(count, device=device)
        steps = steps[:, None] - steps
        return back[steps.clamp(min=0)] & (steps >= 0)

    def cost(self) -> int:
        """Tiles that a kernel computes, gathered columns in parts of a tile rounded up."""
        tiles = self.tiles()
        count = len(tiles)
        before = torch.bincount(self.columns // BLOCK, minlength=count).cumsum(0)
        earlier = torch.cat([before.new_zeros(1), before[:-1]])  # columns before a block of queries
        return int(tiles.sum() + (earlier + BLOCK - 1).div(BLOCK, rounding_mode="floor").sum())

    def pairs(self) -> int:
        """Pairs that are kept."""
        step = 1024
        return sum(int(self.mask(slice(at, at + step)).sum()) for at in range(0, self.tokens, step))


def last_attention(query_TH: Tensor, key_TH: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """How much the last queries look at each key, and over each distance.

    Returns:
        (T,) sums of their attention by key, and (T,) by query minus key; float32.
    """
    tokens, last = len(key_TH), min(LAST, len(query_TH))
    scores = (query_TH[-last:] @ key_TH.T).float() * scaling
    corner = torch.ones(last, last, dtype=torch.bool, device=scores.device).triu(1)
    scores[:, tokens - last :].masked_fill_(corner, -torch.inf)
    attention = scores.softmax(1)
    return attention.sum(0), diagonal_sums(attention)


def diagonal_sums(attention: Tensor) -> Tensor:
    """(T,) sums over the (last, T) attention of the last queries by distance: query place minus key.

    Laid out with rows one place longer than the storage's, each diagonal is a column.
    """
    last, tokens = attention.shape
    wide = tokens + 2 * (last - 1)
    padded = attention.new_zeros(last, wide)
    padded[:, last - 1 : last - 1 + tokens] = attention
    slanted = padded.as_strided((last, tokens + last - 1), (wide + 1, 1))  # column m: distance tokens - 1 - m
    return slanted.sum(0)[:tokens].flip(0)


def block_means(rows_TH: Tensor) -> Tensor:
    """(T / 64, H) float32 means over blocks; the last one over the rows that it has."""
    tokens, width = rows_TH.shape
    count = -(-tokens // BLOCK)
    padded = rows_TH.new_zeros(count * BLOCK, width, dtype=torch.float32)
    padded[:tokens] = rows_TH
    sizes = torch.full((count, 1), float(BLOCK), device=rows_TH.device)
    sizes[-1] = tokens - (count - 1) * BLOCK
    return padded.view(count, BLOCK, width).sum(1) / sizes
