"""A reversible sequence of functions on two streams: the backward pass computes activations again, none are stored.

y1 = lam * x1 + F(x2),  y2 = beta * x2 + G(y1),  then the streams change places
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

Streams = tuple[Tensor, Tensor]
Map = Callable[[Tensor], Tensor]


class Step(NamedTuple):
    """One pair of functions, each from (B, T, D) to (B, T, D)."""

    first: Map
    second: Map


@dataclass
class Segment:
    """Steps that are carried out reversibly.

    Args:
        lam, beta: factors of the streams, not 0.
        anchors: the streams are stored before every so many steps; dividing by a small factor magnifies rounding.
        error: how far, relative to its largest entry, the streams at the start were apart when they were last computed
            back; they began as one, so this is the error of the inversion at no cost.
    """

    steps: Sequence[Step]
    lam: float
    beta: float
    anchors: int = 6
    error: float = field(default=0.0)

    def forward(self, streams: Streams, step: Step) -> Streams:
        """The streams after one step, in float32 at least."""
        x1, x2 = streams
        y1 = self.lam * x1 + step.first(x2).to(x1.dtype)
        y2 = self.beta * x2 + step.second(y1).to(x1.dtype)
        return y2, y1

    def inverse(self, streams: Streams, step: Step) -> Streams:
        """The streams before one step."""
        y2, y1 = streams
        x2 = (y2 - step.second(y1).to(y1.dtype)) / self.beta
        x1 = (y1 - step.first(x2).to(y1.dtype)) / self.lam
        return x1, x2

    def run(self, hidden: Tensor, trained: Tensor) -> Streams:
        """The streams after all steps of a segment that begins with both streams `hidden`.

        Args:
            trained: any parameter that the steps train, so that the result has a gradient; its own goes another way.
        """
        return _Reversed.apply(self, trained, hidden)  # type: ignore[no-any-return, no-untyped-call]


class _Reversed(torch.autograd.Function):
    """Keeps the last streams and the anchors. Parameters get their gradients while the steps are computed again."""

    @staticmethod
    def forward(ctx: Any, segment: Segment, trained: Tensor, hidden: Tensor) -> Streams:
        streams = (hidden, hidden)
        kept: list[Tensor] = []
        ctx.states = []
        for index, step in enumerate(segment.steps):
            if index and index % segment.anchors == 0:
                kept += streams
            noise = _Noise(hidden.device)
            noisy = Step(noise.recorded(step.first), noise.recorded(step.second))
            streams = segment.forward(streams, noisy)
            ctx.states.append(noise.states)
        ctx.save_for_backward(*streams, *kept)
        ctx.segment, ctx.number_format = segment, _number_format(hidden.device)
        return streams

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        segment: Segment = ctx.segment
        y2, y1, *kept = ctx.saved_tensors
        d2, d1 = grads
        for index in range(len(segment.steps) - 1, -1, -1):
            step, noise = segment.steps[index], _Noise(y1.device, ctx.states[index])
            with ctx.number_format():
                given, made = _again(noise.replayed(step.second, 1), y1)
                d1 = d1 + _into(made, given, d2)
                x2 = (y2 - made.detach().to(y2.dtype)) / segment.beta
                given, made = _again(noise.replayed(step.first, 0), x2)
                d1, d2 = segment.lam * d1, segment.beta * d2 + _into(made, given, d1)
                x1 = (y1 - made.detach().to(y1.dtype)) / segment.lam
            if index and index % segment.anchors == 0:
                x2, x1 = kept.pop(), kept.pop()
            y2, y1 = x1, x2  # they are what the step before gave, in its order
            if index:
                d1, d2 = d2, d1
        segment.error = float((y1 - y2).abs().max() / y1.abs().max().clamp_min(1e-30))
        return None, None, d1 + d2 if ctx.needs_input_grad[2] else None


def _again(function: Map, value: Tensor) -> tuple[Tensor, Tensor]:
    """A fresh leaf of a value, and what the function makes of it, with a graph of this function alone."""
    leaf = value.detach().requires_grad_()
    with torch.enable_grad():
        return leaf, function(leaf)


def _into(made: Tensor, given: Tensor, grad: Tensor) -> Tensor:
    """The gradient that reaches `given` when `grad` reaches `made`; parameters on the way get theirs."""
    torch.autograd.backward(made, grad.to(made.dtype))
    assert given.grad is not None
    return given.grad


class _Noise:
    """The states of the random generators before each function, so that dropout is the same when it runs again."""

    def __init__(self, device: torch.device, states: list[list[Tensor]] | None = None) -> None:
        self.device, self.states = device, [] if states is None else states

    def recorded(self, function: Map) -> Map:
        def run(value: Tensor) -> Tensor:
            own = [torch.get_rng_state()]
            if self.device.type == "cuda":
                own.append(torch.cuda.get_rng_state(self.device))
            self.states.append(own)
            return function(value)

        return run

    def replayed(self, function: Map, place: int) -> Map:
        def run(value: Tensor) -> Tensor:
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                torch.set_rng_state(self.states[place][0])
                if devices:
                    torch.cuda.set_rng_state(self.states[place][1], self.device)
                return function(value)

        return run


def _number_format(device: torch.device) -> Callable[[], Any]:
    """The autocast setting of the forward pass, for the backward one."""
    enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    return lambda: torch.autocast(device.type, dtype, enabled=enabled)
