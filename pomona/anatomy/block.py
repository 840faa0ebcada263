"""Block: one layer of a stack, seen as attention, feed-forward and norms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import nn

from pomona.anatomy.declaration import Placement
from pomona.anatomy.space import Axis, Space
from pomona.anatomy.weight import Norm, Runs, Weight


@dataclass(frozen=True, eq=False)
class Latent:
    """A few features of each token, of which a map makes something for every head.

    Args:
        down: linear map of hidden states; its outputs are the latent and, before keys and values, the one key that
            turns with the position and that all heads share.
        norm: of the latent, before it is read.
        features: space of the latent.
    """

    down: Weight
    norm: Norm
    features: Space

    @property
    def rank(self) -> int:
        """Number of features."""
        return self.features.size


@dataclass(frozen=True, eq=False)
class Attention:
    """The projections of one attention and its head counts.

    With latents (multi-head latent attention) `key` and `value` read `key_value_latent` instead of hidden states, and
    `query` reads `query_latent` where there is one. A head's key is what `key` gives it, then the shared key, which
    alone turns; so the last `rotary` features of its query turn. Ask for `direct_attention` where this will not do.

    Args:
        query, key, value, output: linear maps; N * H, K * H, K * H and hidden outputs. With a latent of keys and
            values, `key` has fewer outputs for each head than `query`: the shared key is not among them.
        query_norm, key_norm: norms of each head's features before the scores, or of all heads' features together (their
            axis says which), or None.
        query_latent, key_value_latent: of which queries, and keys with values, are made, or None.
        bias_table: learned score bias by relative position (bucket, head), or None.
        position_query, position_key: projections of relative positions, compared with the keys and queries of tokens;
            None also where the maps of queries and keys project them.
        position_kinds: how many kinds of scores compare tokens and relative positions.
        module: the module that calls the attention kernel.
        causal: a position sees only itself and earlier ones.
        window: number of positions that it sees at most, or None. Not causal: as many before as after its own.
        scaling: factor of the scores.
        softcap: scores s become softcap * tanh(s / softcap), or None.
        rotary: how many of a head's features are turned by position; 0 without rotary positions.
        heads: space of the query heads; kv_heads: of the key-value heads; the same space when they are as many.
    """

    query: Weight
    key: Weight
    value: Weight
    output: Weight
    query_norm: Norm | None
    key_norm: Norm | None
    query_latent: Latent | None
    key_value_latent: Latent | None
    bias_table: Weight | None
    position_query: Weight | None
    position_key: Weight | None
    position_kinds: int
    module: nn.Module = field(repr=False)
    causal: bool
    window: int | None
    scaling: float
    softcap: float | None
    rotary: int
    heads: Space
    kv_heads: Space
    head_dim: Space
    value_dim: Space

    def sees(self, query: int, key: int) -> bool:
        """Whether a query at one position sees a key at another, as far as causality and window decide."""
        if not self.causal:
            return self.window is None or abs(query - key) <= self.window // 2
        return 0 <= query - key < (self.window or query + 1)

    @property
    def num_heads(self) -> int:
        return self.heads.size

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads.size

    def latents(self) -> list[Latent]:
        return [latent for latent in (self.query_latent, self.key_value_latent) if latent is not None]

    def readers(self) -> list[Weight]:
        """The linear maps that read hidden states; those of keys and values may read another sequence's."""
        query = self.query if self.query_latent is None else self.query_latent.down
        latent = self.key_value_latent
        return [query, *((self.key, self.value) if latent is None else (latent.down,))]

    def weights(self) -> list[Weight]:
        """The linear maps."""
        positions = [weight for weight in (self.position_query, self.position_key) if weight is not None]
        downs = [latent.down for latent in self.latents()]
        return [*downs, self.query, self.key, self.value, *positions, self.output]

    def norms(self) -> list[Norm]:
        """Those of queries and keys, and of latents."""
        norms = [self.query_norm, self.key_norm, *(latent.norm for latent in self.latents())]
        return [norm for norm in norms if norm is not None]


@dataclass(frozen=True, eq=False)
class FeedForward:
    """down(act(gate) * up), or down(act(up)) when `gate` is None.

    With experts it is one wide feed-forward, whose features belong to the experts in equal runs: a router lets each
    token use the features of a few of them. `up` and `gate` are then the maps of all experts, stacked, `down` those
    side by side, and `expert(e)` is one of them.

    Args:
        features: space between up and down; with experts, its parent is `experts`.
        module: gives what the feed-forward adds to the residual stream, before a norm on it.
        router: linear map (expert, residual) whose largest outputs choose experts, or None.
        experts: their space, or None.
        active: number of experts that a token uses.
        shared: a feed-forward that every token uses besides, or None.
        shared_gate: linear map to one number, whose sigmoid multiplies what `shared` gives, or None.
    """

    up: Weight
    gate: Weight | None
    down: Weight
    features: Space
    module: nn.Module = field(repr=False)
    router: Weight | None = None
    experts: Space | None = None
    active: int = 1
    shared: FeedForward | None = None
    shared_gate: Weight | None = None

    @property
    def num_experts(self) -> int:
        """Number of experts that a router chooses from; 1 without one."""
        return 1 if self.experts is None else self.experts.size

    @property
    def width(self) -> int:
        """Number of features, of each expert where there are some."""
        return self.features.size // self.num_experts

    def expert(self, index: int) -> FeedForward:
        """One expert as a feed-forward of its own; the whole without experts."""
        return self._each[index]

    @cached_property
    def _each(self) -> list[FeedForward]:
        if self.experts is None:
            return [self]
        return [self._one(index) for index in range(self.experts.size)]

    def _one(self, index: int) -> FeedForward:
        features = Space("feed_forward", self.width, f"{self.features.scope}.experts.{index}")

        def narrow(weight: Weight) -> Weight:
            axes = tuple(Axis((features,)) if axis.has(self.features) else axis for axis in weight.axes)
            runs = weight.runs and Runs(1, weight.runs.period, weight.runs.start, weight.runs.size)
            return replace(weight, axes=axes, runs=runs, expert=index, beside=False)

        gate = None if self.gate is None else narrow(self.gate)
        return FeedForward(narrow(self.up), gate, narrow(self.down), features, self.module)

    def weights(self) -> list[Weight]:
        """The linear maps, those of each expert singly, shared ones and routers included."""
        each = [w for one in self._each for w in (one.gate, one.up, one.down)]
        shared = [] if self.shared is None else self.shared.weights()
        return [w for w in (self.router, *each, *shared, self.shared_gate) if w is not None]

    def wholes(self) -> list[Weight]:
        """The linear maps, those of all experts as one."""
        shared = [] if self.shared is None else self.shared.wholes()
        own = (self.router, self.gate, self.up, self.down, *shared, self.shared_gate)
        return [w for w in own if w is not None]

    def active_parameters(self) -> int:
        """Entries of the linear maps that one token is multiplied with."""
        maps = sum(w.numel() for w in (self.gate, self.up, self.down) if w is not None)
        beside = sum(w.numel() for w in (self.router, self.shared_gate) if w is not None)
        shared = 0 if self.shared is None else self.shared.active_parameters()
        return maps * self.active // self.num_experts + beside + shared


@dataclass(frozen=True, eq=False)
class Block:
    """One layer.

    Args:
        index: place in its stack, from 0.
        kind: name of its stack: "blocks", or "encoder" and "decoder".
        path: name of `module` in the model.
        placement: where its norms are, f being attention and then feed-forward. "pre": x + f(norm(x)). "post":
            norm(x + f(x)). "output": x + norm_out(f(x)). "sandwich": x + norm_out(f(norm(x))). "parallel":
            x + attention(norm_attention(x)) + ffn(norm_ffn(x)), where both may be the same norm.
        branch_scale: factor of what attention and feed-forward add.
        scale_attention, scale_ffn: vectors by which what they add is multiplied (LayerScale), or None.
        norm_attention, norm_ffn: None with the placement "output", and where a block does without.
        norm_attention_out, norm_ffn_out: None except with the placements "output" and "sandwich".
    """

    index: int
    kind: str
    path: str
    module: nn.Module = field(repr=False)
    placement: Placement
    branch_scale: float
    attention: Attention
    ffn: FeedForward
    norm_attention: Norm | None
    norm_ffn: Norm | None
    scale_attention: Weight | None = None
    scale_ffn: Weight | None = None
    norm_attention_out: Norm | None = None
    norm_ffn_out: Norm | None = None
    cross_attention: Attention | None = None
    norm_cross: Norm | None = None

    def weights(self) -> list[Weight]:
        """The linear maps, in the order of the computation; those of each expert singly."""
        return [*self._attention_weights(), *self.ffn.weights()]

    def wholes(self) -> list[Weight]:
        """The linear maps, in the order of the computation; those of all experts as one."""
        return [*self._attention_weights(), *self.ffn.wholes()]

    def writers(self) -> list[Weight]:
        """The linear maps that give what is added to the residual stream."""
        return [w for w in self.wholes() if w.axes[0].name == "residual"]

    def norm_readers(self) -> list[tuple[Norm, list[Weight]]]:
        """The norms whose outputs are read by linear maps alone, each with these; none in a post-norm block."""
        if self.placement == "post":
            return []
        ffn, cross = self.ffn, self.cross_attention
        shared = [] if ffn.shared is None else [ffn.shared.gate, ffn.shared.up, ffn.shared_gate]
        pairs = [
            (self.norm_attention, self.attention.readers()),
            (self.norm_cross, [] if cross is None else [cross.query]),
            (self.norm_ffn, [w for w in (ffn.router, ffn.gate, ffn.up, *shared) if w is not None]),
        ]
        found: dict[Norm, list[Weight]] = {}
        for norm, readers in pairs:
            if norm is not None:
                found.setdefault(norm, []).extend(readers)
        return list(found.items())

    def norms(self) -> list[Norm]:
        """All norms once, those of queries, keys and latents included."""
        norms = [self.norm_attention, *self.attention.norms(), self.norm_attention_out, self.norm_cross]
        norms += [] if self.cross_attention is None else self.cross_attention.norms()
        norms += [self.norm_ffn, self.norm_ffn_out]
        return list(dict.fromkeys(norm for norm in norms if norm is not None))

    def parts(self) -> Iterator[Weight]:
        """Every weight, bias, gain and table of the block; maps of all experts as one."""
        for weight in self.wholes():
            yield weight
            if weight.bias is not None:
                yield weight.bias
        for norm in self.norms():
            yield from norm.weights()
        yield from (scale for scale in (self.scale_attention, self.scale_ffn) if scale is not None)
        for attention in (self.attention, self.cross_attention):
            if attention is not None and attention.bias_table is not None:
                yield attention.bias_table

    def _attention_weights(self) -> list[Weight]:
        cross = [] if self.cross_attention is None else self.cross_attention.weights()
        return [*self.attention.weights(), *cross]


@dataclass(frozen=True, eq=False)
class Stack:
    """A sequence of blocks.

    Args:
        name: "blocks" for the only stack of a model, or "encoder" and "decoder".
        container: the module list that the model's forward iterates.
        positions: table of learned positions, or None.
        first_position: its row for the first position.
        final_norm: norm after the last block, or None.
        returns, carries: what a block returns, see `BlockShape`.
        bias_table: score bias by relative position (bucket, head) that all blocks share, or None.
        interrupted: something else than blocks is computed between two of them.
    """

    name: str
    path: str
    container: nn.ModuleList = field(repr=False)
    blocks: list[Block] = field(repr=False)
    causal: bool
    positions: Weight | None
    first_position: int
    tables: list[Weight]
    embedding_norm: Norm | None
    final_norm: Norm | None
    returns: int
    carries: tuple[tuple[int, str], ...]
    bias_table: Weight | None = None
    interrupted: bool = False

    def parts(self) -> Iterator[Weight]:
        """Every weight, bias, gain and table of the stack."""
        yield from (table for table in (self.positions, self.bias_table) if table is not None)
        yield from self.tables
        for norm in (self.embedding_norm, self.final_norm):
            if norm is not None:
                yield from norm.weights()
        for block in self.blocks:
            yield from block.parts()
