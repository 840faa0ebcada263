"""Block: one layer of a stack, seen as attention, feed-forward and norms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from pomona.anatomy.space import Space
from pomona.anatomy.weight import Norm, Weight


@dataclass(frozen=True, eq=False)
class Attention:
    """The projections of one attention and its head counts.

    Args:
        query, key, value, output: linear maps; N * H, K * H, K * H and hidden outputs.
        query_norm, key_norm: norms of each head's features before the scores, or None.
        bias_table: learned score bias by relative position (bucket, head), or None.
        module: the module that calls the attention kernel.
        causal: a position sees only itself and earlier ones.
        window: number of positions that it sees at most, or None.
        heads: space of the query heads; kv_heads: of the key-value heads; the same space when they are as many.
    """

    query: Weight
    key: Weight
    value: Weight
    output: Weight
    query_norm: Norm | None
    key_norm: Norm | None
    bias_table: Weight | None
    module: nn.Module = field(repr=False)
    causal: bool
    window: int | None
    heads: Space
    kv_heads: Space
    head_dim: Space
    value_dim: Space

    @property
    def num_heads(self) -> int:
        return self.heads.size

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads.size

    def weights(self) -> list[Weight]:
        """The linear maps."""
        return [self.query, self.key, self.value, self.output]

    def norms(self) -> list[Norm]:
        return [norm for norm in (self.query_norm, self.key_norm) if norm is not None]


@dataclass(frozen=True, eq=False)
class FeedForward:
    """down(act(gate) * up), or down(act(up)) when `gate` is None."""

    up: Weight
    gate: Weight | None
    down: Weight
    features: Space

    def weights(self) -> list[Weight]:
        """The linear maps."""
        return [self.up, self.down] if self.gate is None else [self.gate, self.up, self.down]


@dataclass(frozen=True, eq=False)
class Block:
    """One layer.

    Args:
        index: place in its stack, from 0.
        kind: name of its stack: "blocks", or "encoder" and "decoder".
        path: name of `module` in the model.
        placement: "pre" for x + f(norm(x)), "post" for norm(x + f(x)).
    """

    index: int
    kind: str
    path: str
    module: nn.Module = field(repr=False)
    placement: Literal["pre", "post"]
    attention: Attention
    ffn: FeedForward
    norm_attention: Norm
    norm_ffn: Norm
    cross_attention: Attention | None = None
    norm_cross: Norm | None = None

    def weights(self) -> list[Weight]:
        """The linear maps, in the order of the computation."""
        cross = [] if self.cross_attention is None else self.cross_attention.weights()
        return [*self.attention.weights(), *cross, *self.ffn.weights()]

    def norms(self) -> list[Norm]:
        """All norms, those of queries and keys included."""
        cross = [] if self.cross_attention is None else self.cross_attention.norms()
        norms = [self.norm_attention, *self.attention.norms(), self.norm_cross, *cross, self.norm_ffn]
        return [norm for norm in norms if norm is not None]

    def parts(self) -> Iterator[Weight]:
        """Every weight, bias, gain and table of the block."""
        for weight in self.weights():
            yield weight
            if weight.bias is not None:
                yield weight.bias
        for norm in self.norms():
            yield from norm.weights()
        for attention in (self.attention, self.cross_attention):
            if attention is not None and attention.bias_table is not None:
                yield attention.bias_table


@dataclass(frozen=True, eq=False)
class Stack:
    """A sequence of blocks.

    Args:
        name: "blocks" for the only stack of a model, or "encoder" and "decoder".
        container: the module list that the model's forward iterates.
        positions: table of learned positions, or None.
        final_norm: norm after the last block, or None.
        returns, carries: what a block returns, see `BlockShape`.
    """

    name: str
    path: str
    container: nn.ModuleList = field(repr=False)
    blocks: list[Block] = field(repr=False)
    causal: bool
    positions: Weight | None
    tables: list[Weight]
    embedding_norm: Norm | None
    final_norm: Norm | None
    returns: int
    carries: tuple[tuple[int, str], ...]

    def parts(self) -> Iterator[Weight]:
        """Every weight, bias, gain and table of the stack."""
        if self.positions is not None:
            yield self.positions
        yield from self.tables
        for norm in (self.embedding_norm, self.final_norm):
            if norm is not None:
                yield from norm.weights()
        for block in self.blocks:
            yield from block.parts()
