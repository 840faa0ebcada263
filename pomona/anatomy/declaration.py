"""What a declaration of a shape consists of: plain data about where the parts of a transformer live.

Paths are module paths. Those of a stack start at the model's body (the module that returns hidden states), those of a
block at the block, those of a head at the whole model. "a|b" means the first that exists; a trailing "?" means that the
part may be absent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pomona.anatomy.surroundings import Fast, Input, Part

NormKind = Literal["rms", "layer"]
Placement = Literal["pre", "post", "sandwich", "output", "parallel"]
Positions = Literal["rotary", "learned", "relative_bias", "disentangled", "convolution", "computed"]
"""Turned features; a table that is added; a table of score biases; scores against projected relative positions; a
convolution over hidden states; numbers that are added and have no parameters."""
Pool = Literal["tokens", "first", "mean", "own", "made", "first and made"]
"""Every token by itself; the first; the mean of all, of the stem's own (a class token), of those made of the input; the
first beside the mean of those made of the input."""


@dataclass(frozen=True)
class ByFlag:
    """A placement that a configuration flag decides."""

    flag: str
    yes: Placement
    no: Placement


@dataclass(frozen=True)
class Factor:
    """A number that the model multiplies by: a configuration value (or a number) to some power."""

    of: str | float
    """Name of a configuration field; "hidden_size" and "head_dim" are meant as `Fields` names them."""
    power: float = 1.0
    when: str | None = None
    """A configuration flag without which the factor is 1."""


@dataclass(frozen=True)
class Fused:
    """One of several linear maps whose outputs share one module, one part after another."""

    path: str
    part: str
    parts: tuple[str, ...] = ("query", "key", "value")
    interleaved: bool = False
    """Each key-value head has its queries, key and value together, before those of the next."""


Storage = str | Fused


@dataclass(frozen=True, kw_only=True)
class LatentShape:
    """Where a latent is made: a few features of each token, of which another map makes something for every head."""

    down: str
    norm: str


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """Where the projections of one attention are. Norms act on each head's features, or on those of all heads."""

    query: Storage
    key: Storage
    value: Storage
    output: str
    query_norm: str | None = None
    key_norm: str | None = None
    key_value_latent: LatentShape | None = None
    """What `key` and `value` read. Its map also gives the one key that turns with the position, after the latent; maps
    of queries then give each head's features that do not turn before those that do."""
    query_latent: LatentShape | None = None
    """What `query` reads; where its map is absent, that reads hidden states."""
    bias_table: str | None = None
    """Learned bias of the scores by relative position: an embedding (bucket, head)."""
    position_query: str | None = None
    position_key: str | None = None
    """Projections of relative positions, compared with the keys and queries of tokens."""
    position_kinds: str | None = None
    """Configuration field: a list with the kinds of scores between tokens and relative positions, each named a2b. All
    scores are divided by the root of one more than their number."""
    scaling: Factor | float = Factor("head_dim", -0.5)
    """Factor of the scores."""
    scaling_by_depth: str | None = None
    """Configuration flag: the scores of block i, from 0, are divided by i + 1."""
    softcap: str | None = None
    """Configuration field: scores s become cap * tanh(s / cap); None there means no cap."""


@dataclass(frozen=True, kw_only=True)
class FeedForwardShape:
    """Where the feed-forward maps are: down(act(gate) * up), or down(act(up)) without a gate."""

    up: Storage
    down: str
    gate: Storage | None = None


@dataclass(frozen=True, kw_only=True)
class ExpertsShape:
    """A router and gated feed-forwards, of which each token uses a few.

    The maps of all experts lie in parameters (expert, outputs, inputs): `up`, `gate` and `down` are their paths.
    """

    module: str
    """What gives the sum over the experts."""
    router: str
    """Linear map (expert, residual)."""
    up: Storage
    down: str
    gate: Storage | None = None
    count: str = "num_experts"
    """Name of the configuration field that holds the number of experts."""
    active: str = "num_experts_per_tok"
    """Name of the configuration field that holds how many of them a token uses."""
    feed_forward: str = "moe_intermediate_size"
    """Name of the configuration field that holds the features of one expert."""
    shared: FeedForwardShape | None = None
    """A feed-forward that every token uses besides. It may be absent if its `down` ends with "?"."""
    shared_gate: str | None = None
    """Linear map to one number, whose sigmoid multiplies what the shared feed-forward gives."""


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """One layer of a stack."""

    attention: AttentionShape
    ffn: FeedForwardShape | ExpertsShape | tuple[FeedForwardShape | ExpertsShape, ...]
    """Several: the first whose parts are there, in each block anew."""
    norm_attention: str | None = None
    norm_ffn: str | None = None
    norm_attention_out: str | None = None
    norm_ffn_out: str | None = None
    cross_attention: AttentionShape | None = None
    norm_cross: str | None = None
    placement: Placement | ByFlag = "pre"
    """Where the norms are, f being attention and then feed-forward.

    "pre": x + f(norm(x)). "post": norm(x + f(x)). "output": x + norm_out(f(x)). "sandwich": x + norm_out(f(norm(x))).
    "parallel": x + attention(norm_attention(x)) + ffn(norm_ffn(x)); the norms may be one module.
    """
    norm: NormKind = "rms"
    norm_offset: float = 0.0
    """Norms multiply by offset + gain; also those around the blocks."""
    branch_scale: Factor | None = None
    """Factor of what attention and feed-forward add."""
    scale_attention: str | None = None
    scale_ffn: str | None = None
    """Parameters (residual) by which what they add is multiplied, feature by feature (LayerScale)."""
    returns: int = 0
    """0 when a block returns the hidden states alone, else the length of the tuple that they lead."""
    carries: tuple[tuple[int, str], ...] = ()
    """Outputs that the stack hands to the next block: (index in the tuple, name of the block's argument)."""

    @property
    def experts(self) -> ExpertsShape | None:
        """The experts among `ffn`, if any."""
        choices = self.ffn if isinstance(self.ffn, tuple) else (self.ffn,)
        return next((choice for choice in choices if isinstance(choice, ExpertsShape)), None)


@dataclass(frozen=True, kw_only=True)
class StackShape:
    """A sequence of equal blocks with what precedes and follows it."""

    blocks: str
    block: BlockShape
    name: str = "blocks"
    final_norm: str | None = None
    positions: str | None = None
    positions_features: str | None = None
    """Space of the features of positions; None: that of the embeddings."""
    first_position: int | str = 0
    """Row of the first position, or the configuration field of a token id that it follows."""
    tables: tuple[tuple[str, str], ...] = ()
    """Further tables that are added to the token embedding: (path, name of the space of their rows)."""
    embedding_norm: str | None = None
    embedding_norm_over: str = "residual"
    """Space of that norm's gain; "a|b" is the first that the model has."""
    bias_table: str | None = None
    """A table of score biases by relative position (bucket, head) that all blocks share."""
    first: str | None = None
    """Why the first block is made in another way than the others, by its place: it must stay the first."""
    between: str | None = None
    """A module that the forward calls between two blocks. Where it exists, blocks cannot be walked one by one."""
    causal: bool | str = True
    """True, False, or the name of a configuration flag."""
    count: str = "num_hidden_layers"
    """Name of the configuration field that holds the number of blocks."""
    fields: Fields | None = None
    """Names in the configuration, where they are not those of the whole model."""


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """What maps hidden states to logits."""

    path: str
    outputs: str = "vocabulary"
    """Name of the space of the logits: vocabulary, or label."""
    features: str = "residual"
    """Name of the space that the linear map reads; "a|b" is the first that the model has."""
    pool: Pool | None = "tokens"
    """What it is computed from; None: from something that only the model's own forward makes."""
    module: str | None = None
    """The module that computes all of it, when that is more than `transform` followed by `path`."""
    bias: str | None = None
    """A parameter that is its bias, when the linear module has none of its own."""
    added: str | None = None
    """A buffer that is added to the logits."""
    transform: str | None = None
    """Module between hidden states and head; its parts follow."""
    transform_linear: str | None = None
    transform_norm: str | None = None
    scale: Factor | None = None
    """Factor of the hidden states before the head."""
    logits_scale: Factor | None = None
    """Factor of the logits."""
    softcap: str | None = None
    """Configuration field: logits l become cap * tanh(l / cap); None there means no cap."""


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
    vocabulary: str | None = "vocab_size"
    max_positions: str | None = "max_position_embeddings"
    window: str | None = "sliding_window"
    per_block: tuple[str, ...] = ("layer_types", "no_rope_layers")
    """Lists with one entry per block, reordered with the blocks."""
    of_blocks: tuple[str, ...] = ()
    """Lists of indices of blocks, renumbered with them."""
    rotary_layers: str | None = "no_rope_layers"
    """A list whose entries are false where a block does without rotary positions (sic)."""
    fixed_depth: tuple[tuple[str, object], ...] = ()
    """Options that make a block's function depend on its index, so that blocks cannot change places, each with the
    value under which they can."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The declaration of one family shape.

    Args:
        name: unique name of the shape.
        model_types: values of the configuration's `model_type` for which it is known to hold.
        embedding: path of the token embedding from the body; None for a model that does not start from tokens.
        stacks: one, or encoder and decoder.
        head: how logits are made, or None when the body has none.
        positions: how tokens know their places.
        fields: names in the configuration.
        embedding_scale: factor of the token embeddings, rounded to their dtype.
        embedding_features: space of the features of embeddings, when a projection follows them.
        around: what else lies around the blocks, their paths from the body or else from the whole model.
        inputs: what the model takes besides token ids.
        classifiers: heads of other classes of the family; the first whose modules are there, when `head` is not.
        fast: spaces that cannot be permuted, and why.
        when: configuration fields and the values that they must have.
        body: path of the body in a model with several towers; None: the model's own base model.
        beside: names of the shapes of the other towers.
    """

    name: str
    model_types: tuple[str, ...]
    embedding: str | None
    stacks: tuple[StackShape, ...]
    head: HeadShape | None
    positions: Positions
    fields: Fields = field(default_factory=Fields)
    embedding_scale: Factor | None = None
    embedding_features: str = "residual"
    around: tuple[Part, ...] = ()
    inputs: tuple[Input, ...] = ()
    classifiers: tuple[HeadShape, ...] = tuple(
        HeadShape(path=path, outputs="label", features="pooled|residual", pool=None)
        for path in ("classifier", "score", "qa_outputs")
    )
    fast: tuple[Fast, ...] = ()
    when: tuple[tuple[str, object], ...] = ()
    body: str | None = None
    beside: tuple[str, ...] = ()
