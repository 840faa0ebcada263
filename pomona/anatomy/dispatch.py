"""modify_attention: let several modifiers change the attention of a model while it runs, exactly and together.

    with modify_attention(model, [SparseMask(window), ScoreBias(slopes), statistics]):
        model(**batch)

The model keeps its own forward. transformers' AttentionInterface hands every call of its attention kernel to one
dispatcher, which finds out which block it belongs to, lets the modifiers change it, and computes it with the first
kernel that can do what they asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from types import TracebackType
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from pomona.anatomy.attention import attend, resume_kernel, suspend_kernel
from pomona.anatomy.attention_call import (
    ALONE,
    MEANING,
    QUERIES_AT_ONCE,
    AttentionCall,
    Effect,
    Place,
    call_of,
    places_of,
)
from pomona.anatomy.block import Attention
from pomona.anatomy.body import Anatomy, of
from pomona.ground.errors import ConfigError, UnsupportedModel

NAME = "pomona_modified"


class Modifier:
    """What changes attention: one small object with one method.

    Attributes:
        effects: what `modify` may do to a call; the verbs of `AttentionCall` say which effect they have.
        supports: of a modifier that brings its own kernel: the effects of others that the kernel honours.
    """

    effects: ClassVar[frozenset[Effect]] = frozenset()
    supports: ClassVar[frozenset[Effect]] = frozenset({"gate", "show"})

    def modify(self, call: AttentionCall) -> None:
        """Change a call through its verbs, or leave it alone (where `call.place` is none of its business)."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """How refusals call it."""
        return type(self).__name__


@dataclass(frozen=True)
class Kernel:
    """A way to compute attention, and the effects that it can honour. Gates are applied to whatever it gives."""

    name: str
    supports: frozenset[Effect]
    compute: Callable[[AttentionCall], Tensor]


def fused(call: AttentionCall) -> Tensor:
    """In one go, by the kernel that `use_attention` chooses among."""
    whole = slice(0, call.queries)
    bias = call.bias_of(whole)
    # Without a mask of its own, a causal call is told apart by a flag, which is the faster way.
    plain = "seen" not in call.needs and call.mask is None
    return attend(
        call.attention.module,
        call.query if isinstance(call.factor, float) else call.query * call.factor,
        call.key,
        call.value,
        None if plain else call.seen_by(whole),
        dropout=call.dropout,
        scaling=call.scaling * (call.factor if isinstance(call.factor, float) else 1.0),
        is_causal=call.causal,
        position_bias=None if bias is None else bias.to(call.query.dtype),
    )[0].transpose(1, 2)


def in_blocks(call: AttentionCall) -> Tensor:
    """A few queries at a time, written out: O(queries * S) memory without gradients."""
    outs = []
    groups = call.heads // call.value.shape[1]
    for rows in blocks_of(call):
        probabilities = call.probabilities(rows)
        call.look(rows, probabilities)
        weights = nn.functional.dropout(probabilities, call.dropout, training=call.dropout > 0)
        weights = weights.to(call.value.dtype)
        shared = weights.reshape(call.batch, call.value.shape[1], groups * weights.shape[2], call.keys)
        outs.append((shared @ call.value).view(*weights.shape[:3], -1))
    return torch.cat(outs, 2)


def blocks_of(call: AttentionCall) -> Iterable[slice]:
    """The queries of a call, `QUERIES_AT_ONCE` at a time."""
    return (
        slice(start, min(start + QUERIES_AT_ONCE, call.queries)) for start in range(0, call.queries, QUERIES_AT_ONCE)
    )


KERNELS = (
    Kernel("fused", frozenset({"factor", "bias", "seen", "gate", "mask", "show"}), fused),
    Kernel("in blocks", frozenset(MEANING) - {"kernel"}, in_blocks),
)
"""In order of preference."""


class modify_attention:
    """Within the block, every attention of a model goes through `modifiers`, in their order.

    Contexts may be nested and closed in any order; inner modifiers come after outer ones. Run the backward pass inside
    of the block when the model recomputes activations (gradient checkpointing). Compiled models leave their graph at
    each attention.

    Args:
        model: a transformers model, or its anatomy.
        modifiers: at least one; see `pomona.anatomy.modifiers`.
    Raises:
        ConfigError: two modifiers cannot be combined (both are named); at the end of the block: a modifier that
            changed nothing and looked at nothing.
        UnsupportedModel: the model's attention, or that of some block, does not go through AttentionInterface.
    """

    def __init__(self, model: Any, modifiers: Sequence[Modifier]) -> None:
        self.body = model if isinstance(model, Anatomy) else of(model)
        self.modifiers = list(modifiers)
        if not self.modifiers:
            raise ConfigError("modify_attention needs at least one modifier", found="none")

    def __enter__(self) -> Self:
        model = self.body.model
        shared = _ON_MODEL.get(model)
        self._places = places_of(self.body)
        refuse_conflicts([*(shared.modifiers_at(self._places) if shared else ()), *self.modifiers])
        if shared is None:
            suspend_kernel(model, NAME)
            shared = _ON_MODEL[model] = _Shared(model)
        shared.attach(self._places)
        self._touched: set[int] = set()
        shared.contexts.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        model = self.body.model
        shared = _ON_MODEL[model]
        shared.contexts.remove(self)
        if not shared.contexts:
            shared.detach()
            del _ON_MODEL[model]
        if kind is None:
            self._refuse_untouched(shared)

    def _refuse_untouched(self, shared: _Shared) -> None:
        if shared.bypassed:
            raise UnsupportedModel(
                f"the attention of {type(self.body.model).__name__} was not modified everywhere",
                where=", ".join(sorted(shared.bypassed)[:4]),
                needs="attention that goes through transformers' AttentionInterface",
                found="a forward pass that computed attention by itself",
                do="switch off the option of the configuration that chooses another attention, or choose another model",
            )
        idle = [modifier.name for modifier in self.modifiers if id(modifier) not in self._touched]
        if idle:
            raise ConfigError(
                f"{' and '.join(idle)} changed nothing and looked at nothing",
                needs="a forward pass of the model within the block that reaches the chosen places",
                found="no call of its attention" if not shared.calls else f"{shared.calls} calls of other places",
                do="run the model inside of the `with` block, and check where the modifier is to act",
            )


def refuse_conflicts(modifiers: Sequence[Modifier]) -> None:
    """Raise `ConfigError` that names the first two modifiers that cannot be combined."""
    for first, second in combinations(modifiers, 2):
        reason = ""
        if first is second:
            reason = "it is given twice"
        for effect in sorted(first.effects & second.effects & ALONE):
            reason = f"each {MEANING[effect]}"
        for own, other in ((first, second), (second, first)):
            ignored = sorted(other.effects - own.supports) if "kernel" in own.effects else []
            if ignored and not reason:
                reason = f"the kernel of {own.name} ignores what {MEANING[ignored[0]]}, as {other.name} does"
        if reason:
            raise ConfigError(
                f"{first.name} and {second.name} cannot be combined: {reason}",
                needs="modifiers that leave room for one another",
                do="use them one after the other, or choose another one",
            )


@dataclass(eq=False)
class _Shared:
    """What the open contexts of one model share: one dispatcher, one map of places. Its towers have one together."""

    model: Any
    contexts: list[modify_attention] = field(default_factory=list)
    calls: int = 0
    bypassed: set[str] = field(default_factory=set)
    _places: dict[nn.Module, tuple[Place, Attention]] = field(default_factory=dict)
    _dispatched: dict[nn.Module, bool] = field(default_factory=dict)
    _handles: list[RemovableHandle] = field(default_factory=list)

    def modifiers_at(self, places: Mapping[nn.Module, object]) -> list[Modifier]:
        """Those that act in the same tower."""
        return [m for context in self.contexts if context._places.keys() & places.keys() for m in context.modifiers]

    def attach(self, places: dict[nn.Module, tuple[Place, Attention]]) -> None:
        for module in places.keys() - self._places.keys():
            _BY_MODULE[module] = self
            self._handles += [
                module.register_forward_pre_hook(self._begin),
                module.register_forward_hook(self._end),
            ]
        self._places |= places

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        for module in self._places:
            _BY_MODULE.pop(module, None)
        resume_kernel(self.model)

    def dispatch(self, module: nn.Module, arguments: dict[str, Any]) -> Tensor:
        """(B, T, N, H) of one call, after all modifiers."""
        self.calls += 1
        self._dispatched[module] = True
        call = call_of(*self._places[module], arguments)
        for context in self.contexts:
            for modifier in context.modifiers if module in context._places else ():
                before = set(call.needs)
                call.needs, call._allowed = set(), modifier.effects
                modifier.modify(call)
                if call.needs:
                    context._touched.add(id(modifier))
                call.needs |= before
        return compute(call)

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._dispatched[module] = False

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._dispatched[module]:
            self.bypassed.add(str(self._places[module][0]))


def compute(call: AttentionCall) -> Tensor:
    """(B, T, N, H) of a call by the first kernel that honours all that was asked for."""
    call.show_itself()
    if call.kernel is not None:
        out = call.kernel(call)
    else:
        if "watch" in call.needs and torch.is_grad_enabled():  # a graph would keep every probability
            with torch.no_grad():
                for rows in blocks_of(call):
                    call.look(rows, call.probabilities(rows))
            call.seen_enough()
        kernels = KERNELS if call.softcap is None and call.sinks is None else KERNELS[1:]
        kernel = next(kernel for kernel in kernels if call.needs <= kernel.supports)
        out = kernel.compute(call)
    if call.gate is not None:
        out = out * call.gate
    return out.to(call.value.dtype).transpose(1, 2).contiguous()


def _dispatch(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """The attention function that transformers calls for every model that is being modified."""
    shared = _BY_MODULE.get(module)
    if shared is None:  # an attention that the anatomy does not know, as in another tower
        return attend(module, query, key, value, attention_mask, **others)
    tensors = {"module": module, "query": query, "key": key, "value": value, "attention_mask": attention_mask}
    return shared.dispatch(module, {**tensors, **others}), None


_ON_MODEL: WeakKeyDictionary[nn.Module, _Shared] = WeakKeyDictionary()
_BY_MODULE: WeakKeyDictionary[nn.Module, _Shared] = WeakKeyDictionary()
AttentionInterface.register(NAME, torch.compiler.disable(_dispatch))  # type: ignore[no-untyped-call]
AttentionMaskInterface.register(NAME, sdpa_mask)
