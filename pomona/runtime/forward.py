"""Decoding through the model's own forward: what always works, and what the compiled step is checked against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

from pomona.runtime.native import KeyValueCache, NativeStep
from pomona.runtime.packed import PackedLinear

CAPACITY_STEP = 256
"""The compiled forward is built for a length of cache: lengths are rounded up to multiples of this."""


class Session(Protocol):
    """A few sequences that grow token by token; see `NativeStep.step` for the arguments."""

    def advance(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        outputs: Sequence[int],
        keep: int,
    ) -> tuple[list[int], Tensor]: ...


class Engine(Protocol):
    """A way to compute decoding steps."""

    name: str
    max_slots: int
    """Sequences to a session."""
    max_rows: int
    """Tokens of a prompt to a step."""

    def open(self, slots: int, capacity: int) -> Session: ...


class NativeEngine:
    """The compiled step."""

    name = "compiled step"
    max_slots = 16
    max_rows = NativeStep.max_rows

    def __init__(self, step: NativeStep, cache_dtype: torch.dtype) -> None:
        self.step, self.cache_dtype = step, cache_dtype

    def open(self, slots: int, capacity: int) -> Session:
        return _NativeSession(self.step, self.step.new_cache(slots, capacity, self.cache_dtype))


class _NativeSession:
    def __init__(self, step: NativeStep, cache: KeyValueCache) -> None:
        self._step, self._cache = step, cache

    def advance(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        outputs: Sequence[int],
        keep: int,
    ) -> tuple[list[int], Tensor]:
        return self._step.step(self._cache, tokens, slots, positions, outputs, keep)


class ForwardEngine:
    """The model's own forward, one sequence at a time, with packed layers on torch's int4 product.

    Args:
        model: the model.
        compiled: trace a whole step with torch.compile and freeze the weights into it: half a minute at the first
            step, then several times faster.
    """

    max_slots = 1
    max_rows = 1 << 30

    def __init__(self, model: PreTrainedModel, *, compiled: bool) -> None:
        self.model, self.compiled = model, compiled
        self.name = "model's forward, compiled and frozen" if compiled else "model's forward"
        for module in model.modules():
            if isinstance(module, PackedLinear):
                module.prepare()
        # Frozen weights are constants of the graph: in this layout a product reads them twice as fast.
        self._step: Any = torch.compile(model, dynamic=False, options={"freezing": True}) if compiled else model
        self._static: dict[int, StaticCache] = {}

    def open(self, slots: int, capacity: int) -> Session:
        assert slots == 1
        if not self.compiled:
            return _ForwardSession(self.model, self.model, DynamicCache(config=self.model.config))
        length = -(-capacity // CAPACITY_STEP) * CAPACITY_STEP
        if length not in self._static:  # the graph is bound to its cache: a second session takes the same one
            self._static[length] = StaticCache(config=self.model.config, max_cache_len=length)
        cache = self._static[length]
        cache.reset()
        return _ForwardSession(self.model, self._step, cache)


class _ForwardSession:
    def __init__(self, model: PreTrainedModel, step: Any, cache: Any) -> None:
        self._model, self._step, self._cache = model, step, cache

    def advance(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        outputs: Sequence[int],
        keep: int,
    ) -> tuple[list[int], Tensor]:
        forward = self._step if len(tokens) == 1 else self._model
        with torch.no_grad():
            logits = forward(input_ids=torch.tensor([list(tokens)]), past_key_values=self._cache, use_cache=True).logits
        chosen = logits[0, list(outputs)].float()
        return [int(token) for token in chosen.argmax(dim=-1)], chosen
