"""What a declaration of a shape consists of: plain data about where the parts of a transformer live.

Paths are module paths. Those of a stack start at the model's body (the module that returns hidden states), those of a
block at the block, those of a head at the whole model. "a|b" means the first that exists; a trailing "?" means that the
part may be absent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

NormKind = Literal["rms", "layer"]
Placement = Literal["pre", "post"]


@dataclass(frozen=True)
class Fused:
    """One of several linear maps whose outputs lie one after another in one module."""

    path: str
    part: str
    parts: tuple[str, ...] = ("query", "key", "value")


Storage = str | Fused


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """Where the projections of one attention are. Norms of queries and keys act on each head's features."""

    query: Storage
    key: Storage
    value: Storage
    output: str
    query_norm: str | None = None
    key_norm: str | None = None
    bias_table: str | None = None
    """Learned bias of the scores by relative position: an embedding (bucket, head)."""


@dataclass(frozen=True, kw_only=True)
class FeedForwardShape:
    """Where the feed-forward maps are: down(act(gate) * up), or down(act(up)) without a gate."""

    up: Storage
    down: str
    gate: Storage | None = None


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """One layer of a stack."""

    attention: AttentionShape
    ffn: FeedForwardShape
    norm_attention: str
    norm_ffn: str
    cross_attention: AttentionShape | None = None
    norm_cross: str | None = None
    placement: Placement = "pre"
    """"pre": x + f(norm(x)). "post": norm(x + f(x))."""
    norm: NormKind = "rms"
    returns: int = 0
    """0 when a block returns the hidden states alone, else the length of the tuple that they lead."""
    carries: tuple[tuple[int, str], ...] = ()
    """Outputs that the stack hands to the next block: (index in the tuple, name of the block's argument)."""


@dataclass(frozen=True, kw_only=True)
class StackShape:
    """A sequence of equal blocks with what precedes and follows it."""

    blocks: str
    block: BlockShape
    name: str = "blocks"
    final_norm: str | None = None
    positions: str | None = None
    tables: tuple[tuple[str, str], ...] = ()
    """Further tables that are added to the token embedding: (path, name of the space of their rows)."""
    embedding_norm: str | None = None
    causal: bool | str = True
    """True, False, or the name of a configuration flag."""
    count: str = "num_hidden_layers"
    """Name of the configuration field that holds the number of blocks."""


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """What maps hidden states to logits."""

    path: str
    transform: str | None = None
    """Module between hidden states and head; its parts follow."""
    transform_linear: str | None = None
    transform_norm: str | None = None
    scaled_if: str | None = None
    """Configuration flag: hidden states are multiplied by hidden_size ** -0.5 before the head."""


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Names of the configuration's fields. A missing optional field has its usual meaning."""

    hidden_size: str = "hidden_size"
    heads: str = "num_attention_heads"
    kv_heads: str = "num_key_value_heads"
    """Absent or None: as many as heads."""
    head_dim: str = "head_dim"
    """Absent or None: hidden_size / heads."""
    feed_forward: str = "intermediate_size"
    """Absent or None: 4 * hidden_size."""
    vocabulary: str = "vocab_size"
    max_positions: str | None = "max_position_embeddings"
    window: str | None = "sliding_window"
    per_block: tuple[str, ...] = ("layer_types",)
    """Lists with one entry per block, reordered with the blocks."""
    fixed_depth: tuple[str, ...] = ()
    """Flags that make a block's function depend on its index, so that blocks cannot change places."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The declaration of one family shape.

    Args:
        name: unique name of the shape.
        model_types: values of the configuration's `model_type` for which it is known to hold.
        embedding: path of the token embedding from the body.
        stacks: one, or encoder and decoder.
        head: how logits are made, or None when the body has none.
        positions: how tokens know their places.
        fields: names in the configuration.
    """

    name: str
    model_types: tuple[str, ...]
    embedding: str
    stacks: tuple[StackShape, ...]
    head: HeadShape | None
    positions: Literal["rotary", "learned", "relative_bias"]
    fields: Fields = field(default_factory=Fields)
