"""AttentionCall: one call of an attention kernel, open to change before it is computed.

What every kernel computes, for query t and key s of a head:

    score[t, s]  = factor * (softcap(scaling * q[t] . k[s]) + bias[t, s])      where t sees s, else nothing
    out[t]       = gate * sum_s softmax(score[t])[s] * v[s]

A modifier changes a call through the verbs below. Each verb has an *effect*, and effects say what goes together:
factors multiply and biases add up, in the order of the modifiers, so that a temperature after a bias divides the bias
too; masks intersect; gates multiply; watchers only look. Own masks, own probabilities and own kernels take the place
of the model's, so only one modifier may bring each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pomona.anatomy.block import Attention
from pomona.anatomy.body import Anatomy
from pomona.ground.errors import ConfigError, UnsupportedModel

Effect = Literal["factor", "bias", "seen", "gate", "watch", "show", "mask", "probabilities", "kernel"]
MEANING: dict[Effect, str] = {
    "factor": "multiplies the scores",
    "bias": "adds to the scores",
    "seen": "hides keys",
    "gate": "scales the outputs of heads",
    "watch": "looks at the probabilities",
    "show": "looks at queries, keys and values",
    "mask": "replaces the model's mask",
    "probabilities": "replaces the probabilities",
    "kernel": "replaces the kernel",
}
ALONE: frozenset[Effect] = frozenset({"mask", "probabilities", "kernel"})
"""Effects that one modifier at most may have: a second one would silently undo the first."""

Made = Tensor | Callable[[slice], Tensor]
"""A tensor that can be broadcast to (B, N, T, S), or a function that makes the part for some of the T queries."""
QUERIES_AT_ONCE = 128
"""Queries whose probabilities exist at the same time when something looks at them."""


@dataclass(frozen=True)
class Place:
    """Where an attention is: the key under which modifiers keep what belongs to it.

    Args:
        stack: name of the stack.
        index: of the block in its stack.
        cross: attention from decoder to encoder.
    """

    stack: str
    index: int
    cross: bool

    def __str__(self) -> str:
        return f"{self.stack}.{self.index}.{'cross_attention' if self.cross else 'attention'}"


def places_of(body: Anatomy) -> dict[nn.Module, tuple[Place, Attention]]:
    """The modules of a model that call the attention kernel, and which attention each is.

    Raises:
        UnsupportedModel: two attentions share one module, so that a call does not tell which it is.
    """
    places: dict[nn.Module, tuple[Place, Attention]] = {}
    for block in body.blocks:
        for attention, cross in ((block.attention, False), (block.cross_attention, True)):
            if attention is None:
                continue
            place = Place(block.kind, block.index, cross)
            if attention.module in places:
                raise UnsupportedModel(
                    f"the attention of {type(body.model).__name__} cannot be modified",
                    needs="a module of its own for each attention",
                    found=f"one for {places[attention.module][0]} and {place}",
                    do="choose a model whose blocks share no parameters",
                )
            places[attention.module] = place, attention
    return places


@dataclass(eq=False)
class AttentionCall:
    """One call: what the model wants computed, and what modifiers made of it.

    Args:
        place, attention: which attention this is.
        query: (B, N, T, H); key: (B, K, S, H); value: (B, K, S, H). N / K query heads share a key-value head.
        scaling: factor of the products of queries and keys.
        causal: query t sees keys up to `first` + t, besides what `mask` hides.
        mask: (B or 1, N or 1, T, S) bool, True where a query sees a key, or None.
        softcap: c of c * tanh(score / c), or None.
        sinks: (N,) score of a key without value that every query sees, or None.
        dropout: probability with which a probability is dropped; 0 outside of training.
    """

    place: Place
    attention: Attention
    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    causal: bool
    mask: Tensor | None
    softcap: float | None = None
    sinks: Tensor | None = None
    dropout: float = 0.0
    needs: set[Effect] = field(default_factory=set)
    """The effects of the verbs that were used."""
    factor: float | Tensor = 1.0
    gate: Tensor | None = None
    kernel: Callable[[AttentionCall], Tensor] | None = None
    _allowed: frozenset[Effect] = frozenset()
    _terms: list[tuple[Made, float | Tensor]] = field(default_factory=list)
    _hiding: list[Made] = field(default_factory=list)
    _watchers: list[Callable[[slice, Tensor], None]] = field(default_factory=list)
    _shown: list[Callable[[AttentionCall], None]] = field(default_factory=list)
    _probabilities: Callable[[slice, Tensor], Tensor] | None = None

    # ---- sizes

    @property
    def batch(self) -> int:
        return int(self.query.shape[0])

    @property
    def heads(self) -> int:
        return int(self.query.shape[1])

    @property
    def queries(self) -> int:
        return int(self.query.shape[2])

    @property
    def keys(self) -> int:
        return int(self.key.shape[2])

    @property
    def first(self) -> int:
        """The key that belongs to the first query: 0, or the number of cached tokens. Without meaning across stacks."""
        return self.keys - self.queries

    # ---- verbs of modifiers

    def scale_scores(self, factor: float | Tensor) -> None:
        """Multiply the scores, with everything added to them so far, by a number or (N,) or (B, N). Effect: factor."""
        self._use("factor")
        if isinstance(factor, Tensor):
            factor = _per_head(factor, self.query)
        self.factor = self.factor * factor
        self._terms = [(term, times * factor) for term, times in self._terms]

    def add_bias(self, bias: Made) -> None:
        """Add to the scores. Effect: bias."""
        self._use("bias")
        self._terms.append((bias, 1.0))

    def see_only(self, seen: Made) -> None:
        """Hide the keys where `seen` (bool) is False, besides those that are hidden already. Effect: seen."""
        self._use("seen")
        self._hiding.append(seen)

    def replace_mask(self, seen: Tensor | None) -> None:
        """See the keys where `seen` (bool) is True, or all of them, whatever the model's own mask is. Effect: mask."""
        self._use("mask")
        self.mask, self.causal = None if seen is None else _four(seen), False

    def scale_heads(self, gate: Tensor) -> None:
        """Multiply what each head gives to the output projection by (N,) or (B, N); 0 removes it. Effect: gate."""
        self._use("gate")
        gate = _per_head(gate, self.query)
        self.gate = gate if self.gate is None else self.gate * gate

    def watch(self, look: Callable[[slice, Tensor], None]) -> None:
        """Call `look(rows, probabilities)` with (B, N, rows, S), a few queries at a time, detached, before dropout.

        Effect: watch. All keys are there, hidden ones with probability 0; rows that see nothing are means.
        """
        self._use("watch")
        self._watchers.append(look)

    def show(self, look: Callable[[AttentionCall], None]) -> None:
        """Call `look(call)` after all modifiers, before anything is computed: queries, keys and values as the kernel
        gets them, with their gradient history. Effect: show."""
        self._use("show")
        self._shown.append(look)

    def replace_probabilities(self, change: Callable[[slice, Tensor], Tensor]) -> None:
        """Weigh the values by `change(rows, probabilities)`, (B, N, rows, S) in and out. Effect: probabilities."""
        self._use("probabilities")
        self._probabilities = change

    def compute_with(self, kernel: Callable[[AttentionCall], Tensor]) -> None:
        """Let `kernel(call)` compute (B, N, T, H); it must honour `bias_of`, `seen_by` and `factor`. Effect: kernel."""
        self._use("kernel")
        self.kernel = kernel

    def _use(self, effect: Effect) -> None:
        if effect not in self._allowed:
            raise ValueError(f"a modifier that {MEANING[effect]} must name {effect!r} among its effects")
        self.needs.add(effect)

    # ---- what kernels compute from

    def seen_by(self, rows: slice) -> Tensor | None:
        """(B or 1, N or 1, rows, S) bool, True where these queries see a key; None when they see all."""
        seen = self._own_mask(rows)
        if not self._hiding:
            return seen
        own, size = seen, rows.stop - rows.start
        for hiding in self._hiding:
            part = _part(hiding, rows, self.queries).to(self.query.device)
            if part.dtype != torch.bool:
                raise ConfigError(f"a mask of {self.place} is {part.dtype}", needs="bool, True where a key is seen")
            seen = part if seen is None else seen & part
        assert seen is not None
        blind = ~seen.any(-1).expand(self.batch, -1, size)
        if own is not None:
            blind = blind & own.any(-1)  # padding that sees nothing anyway
        if bool(blind.any()):
            row = rows.start + int(blind.nonzero()[0, 2])
            raise ConfigError(
                f"the masks of {self.place} hide every key from query {row}",
                needs="at least one key for each query, usually its own",
                found="none",
                do="let each query see itself",
            )
        return seen

    def bias_of(self, rows: slice) -> Tensor | None:
        """What is added to the scaled scores of these queries, factors included, or None."""
        total: Tensor | None = None
        for made, times in self._terms:
            term = _part(made, rows, self.queries).to(self.query.device) * times
            total = term if total is None else total + term
        return total

    def scores(self, rows: slice) -> Tensor:
        """(B, N, rows, S) scores of these queries, at least float32, the lowest number where a key is hidden."""
        query = self.query[:, :, rows]
        groups = self.heads // self.key.shape[1]
        # The queries of a group lie one after another, so that keys need not be repeated.
        scores = query.reshape(self.batch, self.key.shape[1], groups * query.shape[2], -1) @ self.key.transpose(2, 3)
        scores = scores.view(self.batch, self.heads, query.shape[2], self.keys)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * self.scaling
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        scores = scores * self.factor
        bias, seen = self.bias_of(rows), self.seen_by(rows)
        if bias is not None:
            scores = scores + bias
        if seen is not None:
            scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        return scores

    def probabilities(self, rows: slice) -> Tensor:
        """(B, N, rows, S) softmax of the scores of these queries: differentiable, before dropout."""
        scores = self.scores(rows)
        if self.sinks is not None:
            sinks = self.sinks.to(scores).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            probabilities = torch.softmax(torch.cat([scores, sinks], -1), -1)[..., :-1]
        else:
            probabilities = torch.softmax(scores, -1)
        if self._probabilities is not None:
            probabilities = self._probabilities(rows, probabilities)
        return probabilities

    def look(self, rows: slice, probabilities: Tensor) -> None:
        """Show probabilities to every watcher."""
        for look in self._watchers:
            look(rows, probabilities.detach())

    def show_itself(self) -> None:
        """Let those look who asked to."""
        for look in self._shown:
            look(self)

    def seen_enough(self) -> None:
        """Let the watchers go: they have looked at every query."""
        self.needs.discard("watch")
        self._watchers.clear()

    def _own_mask(self, rows: slice) -> Tensor | None:
        seen = self.mask if self.mask is None or self.mask.shape[2] == 1 else self.mask[:, :, rows]
        if self.causal:
            device = self.query.device
            places = torch.arange(rows.start, rows.stop, device=device) + self.first
            earlier = (torch.arange(self.keys, device=device) <= places[:, None])[None, None]
            seen = earlier if seen is None else seen & earlier
        return seen


def call_of(place: Place, attention: Attention, arguments: dict[str, Any]) -> AttentionCall:
    """The call that transformers makes, in canonical form; `arguments` are those of an attention function, by name."""
    module, query, key, value = (arguments[name] for name in ("module", "query", "key", "value"))
    mask: Tensor | None = arguments.get("attention_mask")
    causal = arguments.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    causal = causal and mask is None and query.shape[2] > 1
    if causal and key.shape[2] > query.shape[2]:
        # A static cache before its first token: only the first keys are filled.
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
    keys = key.shape[2]
    scaling = arguments.get("scaling")
    call = AttentionCall(
        place=place,
        attention=attention,
        query=query,
        key=key,
        value=value,
        scaling=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        causal=causal,
        mask=None,
        softcap=arguments.get("softcap"),
        sinks=arguments.get("s_aux"),
        dropout=float(arguments.get("dropout") or 0.0) if module.training else 0.0,
    )
    if mask is not None:
        mask = _four(mask)[..., :keys]
        if mask.dtype == torch.bool:
            call.mask = mask
        else:  # what hides keys, and what is added to the others
            call.mask = mask > torch.finfo(mask.dtype).min / 2
            call._terms.append((mask.masked_fill(~call.mask, 0.0), 1.0))
    if (bias := arguments.get("position_bias")) is not None:
        call._terms.append((_four(bias)[..., :keys], 1.0))
    return call


def _four(tensor: Tensor) -> Tensor:
    """With four dimensions, leading ones of size 1."""
    return tensor.reshape((1,) * (4 - tensor.dim()) + tuple(tensor.shape))


def _per_head(scale: Tensor, like: Tensor) -> Tensor:
    """(N,) or (B, N) as (1 or B, N, 1, 1), in the dtype of `like`."""
    if scale.dim() not in (0, 1, 2) or (scale.dim() and scale.shape[-1] != like.shape[1]):
        raise ConfigError(
            "a scale of attention heads has the wrong shape",
            needs=f"({like.shape[1]},) or ({like.shape[0]}, {like.shape[1]}): one number per head",
            found=str(tuple(scale.shape)),
        )
    scale = scale.to(like)
    return scale if scale.dim() == 0 else scale.reshape(-1 if scale.dim() == 2 else 1, like.shape[1], 1, 1)


def _part(made: Made, rows: slice, queries: int) -> Tensor:
    """The part of a broadcastable (B, N, T, S) for some queries."""
    if not isinstance(made, Tensor):
        return _four(made(rows))
    made = _four(made)
    return made if made.shape[2] == 1 and queries > 1 else made[:, :, rows]
