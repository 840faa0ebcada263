"""Modifiers of attention that methods share: bias, masks, gates, temperature, whole maps.

Each takes a tensor, or a function of the call for what differs between blocks or inputs, and acts in the places that
`where` accepts (default: all). A method with needs of its own writes another `Modifier` of ten lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from pomona.anatomy.attention_call import AttentionCall, Effect, Made, Place
from pomona.anatomy.dispatch import Modifier
from pomona.anatomy.walk import SeenEnough
from pomona.ground.errors import ConfigError

Where = Callable[[Place], bool]


def everywhere(place: Place) -> bool:
    """Every attention, cross-attention included."""
    return True


def own(place: Place) -> bool:
    """Attention of a stack to itself."""
    return not place.cross


@dataclass(eq=False)
class ScoreBias(Modifier):
    """Add to the scores of queries and keys: score + bias.

    Args:
        bias: (.., T, S), broadcast to (B, N, T, S); or a function (call, rows) that makes the part for some queries.
        where: which attentions.
    """

    bias: Tensor | Callable[[AttentionCall, slice], Tensor]
    where: Where = everywhere
    effects: ClassVar[frozenset[Effect]] = frozenset({"bias"})

    def modify(self, call: AttentionCall) -> None:
        if self.where(call.place):
            call.add_bias(_made(self.bias, call))


@dataclass(eq=False)
class SparseMask(Modifier):
    """Let queries see only some of the keys that they would see: softmax over these alone.

    Args:
        seen: bool (.., T, S), True where a query sees a key; or a function (call, rows). Every query needs a key.
        where: which attentions.
    """

    seen: Tensor | Callable[[AttentionCall, slice], Tensor]
    where: Where = everywhere
    effects: ClassVar[frozenset[Effect]] = frozenset({"seen"})

    def modify(self, call: AttentionCall) -> None:
        if self.where(call.place):
            call.see_only(_made(self.seen, call))


@dataclass(eq=False)
class Bidirectional(Modifier):
    """Lift the causal mask: queries see later positions too. Padding stays hidden, a window becomes two-sided.

    Args:
        where: which attentions.
    Raises:
        ConfigError: the model's mask hides more than later positions, padding and what is outside of its window
            (packed documents), or keys are cached.
    """

    where: Where = own
    effects: ClassVar[frozenset[Effect]] = frozenset({"mask"})

    def modify(self, call: AttentionCall) -> None:
        if self.where(call.place) and call.attention.causal:
            call.replace_mask(self._lifted(call))

    def _lifted(self, call: AttentionCall) -> Tensor | None:
        mask = call.mask
        if mask is None and call.queries == call.keys:
            return None
        if mask is not None and mask.shape[-2:] == (call.queries, call.keys) and call.queries == call.keys:
            places = torch.arange(call.keys, device=mask.device)
            window = call.attention.window or call.keys
            distance = places[:, None] - places
            near = (distance.abs() < window)[None, None]
            # A real token sees itself; padding is seen by none but, in some masks, itself.
            real = mask.diagonal(dim1=-2, dim2=-1)[..., None, :]
            seen = mask & real.transpose(-1, -2)
            if torch.equal(seen, real & real.transpose(-1, -2) & near & (distance >= 0)):
                return real & near | (distance == 0)
        raise ConfigError(
            f"the causal mask of {call.place} cannot be lifted",
            needs="a mask of later positions, padding and the model's window alone, without cached keys",
            found="no mask" if mask is None else f"another mask of shape {tuple(mask.shape)}",
            do="give each document a row of its own, and run without a cache",
        )


@dataclass(eq=False)
class HeadGate(Modifier):
    """Multiply the output of each head by a number: 0 masks it, a parameter learns how much it matters.

    Args:
        gate: (N,) or (B, N); or a function of the place that returns one, or None where nothing is to change.
        where: which attentions.
    """

    gate: Tensor | Callable[[Place], Tensor | None]
    where: Where = everywhere
    effects: ClassVar[frozenset[Effect]] = frozenset({"gate"})

    def modify(self, call: AttentionCall) -> None:
        gate = self.gate if isinstance(self.gate, Tensor) else self.gate(call.place)
        if gate is not None and self.where(call.place):
            call.scale_heads(gate)


@dataclass(eq=False)
class Temperature(Modifier):
    """Divide the scores, biases included, by a temperature.

    Args:
        temperature: a number, or (N,) or (B, N), above 0: the larger, the more even the attention.
        where: which attentions.
    """

    temperature: float | Tensor
    where: Where = everywhere
    effects: ClassVar[frozenset[Effect]] = frozenset({"factor"})

    def __post_init__(self) -> None:
        if not bool(torch.as_tensor(self.temperature > 0).all()):
            raise ConfigError("a temperature must be positive", found=str(self.temperature))

    def modify(self, call: AttentionCall) -> None:
        if self.where(call.place):
            call.scale_scores(1 / self.temperature)


@dataclass(eq=False)
class OtherProbabilities(Modifier):
    """Weigh the values by other numbers than the softmax: a teacher's map, or single entries knocked out.

    Args:
        change: gets (call, rows, probabilities (B, N, rows, S)) and returns the weights, of the same shape.
        where: which attentions.
    """

    change: Callable[[AttentionCall, slice, Tensor], Tensor]
    where: Where = everywhere
    effects: ClassVar[frozenset[Effect]] = frozenset({"probabilities"})

    def modify(self, call: AttentionCall) -> None:
        if self.where(call.place):
            call.replace_probabilities(lambda rows, probabilities: self.change(call, rows, probabilities))


@dataclass(eq=False)
class AttentionMaps(Modifier):
    """Keep whole attention maps: B * N * T * S numbers for each call, so ask for few places.

    Attributes:
        maps: (B, N, T, S) of each call, detached, by place, in the order of the calls.
    """

    where: Where = everywhere
    maps: dict[Place, list[Tensor]] = field(default_factory=dict, init=False)
    effects: ClassVar[frozenset[Effect]] = frozenset({"watch"})

    def modify(self, call: AttentionCall) -> None:
        if not self.where(call.place):
            return
        dtype = torch.promote_types(call.query.dtype, torch.float32)
        whole = call.query.new_empty(call.batch, call.heads, call.queries, call.keys, dtype=dtype)
        self.maps.setdefault(call.place, []).append(whole)

        def keep(rows: slice, probabilities: Tensor) -> None:
            whole[:, :, rows] = probabilities

        call.watch(keep)


@dataclass(eq=False)
class AttentionCalls(Modifier):
    """Keep the calls themselves: queries and keys after positions were applied, values, and what makes the scores.

    They keep their gradient history, so that a loss may be computed from them.

    Args:
        where: which attentions.
        last: raise `SeenEnough` at this place, once its call is kept: nothing after it is computed.
    Attributes:
        calls: by place, in the order of the calls.
    """

    where: Where = everywhere
    last: Place | None = None
    calls: dict[Place, list[AttentionCall]] = field(default_factory=dict, init=False)
    effects: ClassVar[frozenset[Effect]] = frozenset({"show"})

    def modify(self, call: AttentionCall) -> None:
        if self.where(call.place):
            call.show(self._keep)

    def _keep(self, call: AttentionCall) -> None:
        self.calls.setdefault(call.place, []).append(call)
        if call.place == self.last:
            raise SeenEnough


def _made(given: Any, call: AttentionCall) -> Made:
    return given if isinstance(given, Tensor) else lambda rows: given(call, rows)
