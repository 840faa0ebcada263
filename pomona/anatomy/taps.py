"""Taps: see what flows into and out of a linear map while the model runs; always removed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pomona.anatomy.weight import Weight

Callback = Callable[[Tensor], None]


@contextmanager
def tap_inputs(weight: Weight, callback: Callback) -> Iterator[None]:
    """Within the block, call `callback` with the inputs of a linear map at each of its calls.

    Args:
        weight: a linear map.
        callback: gets (rows, inputs), rows being batch times tokens; with its gradient history, if any.
    """
    _refuse_unless_linear(weight)

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        callback(args[0].reshape(-1, args[0].shape[-1]))

    handle = weight.owner.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def tap_outputs(weight: Weight, callback: Callback) -> Iterator[None]:
    """Within the block, call `callback` with the outputs of a linear map (bias included) at each of its calls.

    Args:
        weight: a linear map; of fused ones only its own outputs are passed.
        callback: gets (rows, outputs).
    """
    _refuse_unless_linear(weight)

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        flat = output.reshape(-1, output.shape[-1])
        callback(flat if weight.rows is None else flat[:, weight.rows])

    handle = weight.owner.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _refuse_unless_linear(weight: Weight) -> None:
    if weight.kind != "linear":
        raise ValueError(f"{weight.role} is a {weight.kind}: only linear maps have inputs and outputs to tap")
