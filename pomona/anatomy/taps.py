"""Taps: see or replace what flows through a model at the borders of its parts; always removed at the end.

    with tap_inputs(block.ffn.down, statistics.add):              # see the inputs of a linear map
    with replace_outputs(block, lambda hidden: hidden + vector):  # steer what leaves a block
    with replace_branch(block, "attention", torch.zeros_like):    # leave out what attention adds

The parts are linear maps (`Weight`), blocks, the branches of a block, and the residual stream of a stack. Several may
be open at once, on the same part too, and may be closed in any order; each sees what those opened before it made of
the tensor. A tap through which nothing flowed is an error: the model did not run, or ran without this part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pomona.anatomy.block import Block, Stack
from pomona.anatomy.expert_taps import Through, expert_hook, put
from pomona.anatomy.weight import Weight
from pomona.ground.errors import ConfigError

Callback = Callable[[Tensor], None]
Change = Callable[[Tensor], Tensor]
Branch = Literal["attention", "cross_attention", "ffn"]


def tap_inputs(part: Weight | Block, callback: Callback) -> AbstractContextManager[None]:
    """Within the block, call `callback` with what enters a part, at each of its calls.

    Args:
        part: a linear map, or a block.
        callback: gets (rows, inputs) of a linear map, rows being batch times tokens (of an expert's map: the tokens
            that it was sent, and no call without any), or the (B, T, D) hidden states of a block; with their gradient
            history, if any.
    """
    return _tap(part, inputs=_seen(part, callback))


def tap_outputs(part: Weight | Block, callback: Callback) -> AbstractContextManager[None]:
    """Within the block, call `callback` with what leaves a part, at each of its calls.

    Args:
        part: a linear map, bias included (of fused ones only its own outputs), or a block.
        callback: gets (rows, outputs) of a linear map, or the (B, T, D) hidden states of a block; see `tap_inputs`.
    """
    return _tap(part, outputs=_seen(part, callback))


def replace_inputs(part: Weight | Block, change: Change) -> AbstractContextManager[None]:
    """Within the block, let a part compute with `change` of what enters it, at each of its calls.

    Of several linear maps that are fused in one module only the named one gets other inputs: its outputs are computed
    again. So are those of an expert's map.

    Args:
        part: a linear map, or a block.
        change: gets the inputs as they are, (..., inputs) or (B, T, D), and returns a tensor of the same shape and
            dtype.
    """
    return _tap(part, inputs=lambda hidden: _kept(change, hidden, part))


def replace_outputs(part: Weight | Block, change: Change) -> AbstractContextManager[None]:
    """Within the block, let what follows a part compute with `change` of what leaves it, at each of its calls.

    Args:
        part: a linear map (of fused ones only its own outputs), or a block.
        change: gets the outputs as they are, (..., outputs) or (B, T, D), and returns a tensor of the same shape and
            dtype.
    """
    return _tap(part, outputs=lambda hidden: _kept(change, hidden, part))


def tap_branch(block: Block, branch: Branch, callback: Callback) -> AbstractContextManager[None]:
    """Within the block, call `callback` with the (B, T, D) that a branch adds to the residual stream, at each call.

    A `branch_scale` other than 1 multiplies it afterwards.
    """
    return _branch(block, branch, lambda inputs, hidden: callback(hidden))


def replace_branch(block: Block, branch: Branch, change: Change) -> AbstractContextManager[None]:
    """Within the block, let a branch add `change` of its (B, T, D) to the residual stream; same shape and dtype."""
    return _branch(block, branch, lambda inputs, hidden: _kept(change, hidden, block))


@contextmanager
def tap_stream(stack: Stack, callback: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within the block, call `callback(place, hidden)` for each place of a stack's residual stream.

    Place 0 is before the first block, place i after i blocks; hidden states (B, T, D) before the final norm.
    """
    with ExitStack() as taps:
        taps.enter_context(tap_inputs(stack.blocks[0], lambda hidden: callback(0, hidden)))
        for place, block in enumerate(stack.blocks, start=1):
            taps.enter_context(tap_outputs(block, lambda hidden, place=place: callback(place, hidden)))  # type: ignore[misc]
        yield


def hidden_of(output: Any) -> Tensor:
    """The hidden states in what a block returns: the tensor, or what leads the tuple."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _tap(
    part: Weight | Block, inputs: Through | None = None, outputs: Through | None = None
) -> AbstractContextManager[None]:
    """Let what enters or leaves a part pass through a function, by the hook that reaches it."""
    weight = part if isinstance(part, Weight) else None
    if weight is not None and weight.routed:
        hook = expert_hook(weight, inputs, outputs)
    elif outputs is not None:
        hook = _on_output(lambda entered, left: _own_changed(part, left, outputs))
    elif weight is not None and weight.fused:
        assert inputs is not None
        hook = _on_output(lambda entered, left: _again(weight, entered, left, inputs))
    else:
        assert inputs is not None
        return _watched(_module(part), _on_input(inputs), before=True, name=_name(part))
    return _watched(_module(part), hook, before=False, name=_name(part))


def _seen(part: Weight | Block, callback: Callback) -> Through:
    def see(hidden: Tensor) -> None:
        callback(hidden.reshape(-1, hidden.shape[-1]) if isinstance(part, Weight) else hidden)

    return see


def _own_changed(part: Weight | Block, outputs: Tensor, through: Through) -> Tensor | None:
    """What a module gives when the outputs of a part of it pass through a function; None if they stay."""
    rows = part.rows if isinstance(part, Weight) else None
    new = through(outputs if rows is None else outputs[..., rows])
    return new if new is None or rows is None else put(outputs, rows, new)


def _again(weight: Weight, inputs: Tensor, outputs: Tensor, through: Through) -> Tensor | None:
    """What a module gives when one of its fused maps gets other inputs; None if they stay."""
    new = through(inputs)
    return None if new is None else put(outputs, weight.rows, weight.apply(new))


# Hooks that are given the hidden states and may return others; they hide how modules take and return them.


def _on_input(see: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = see(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = see(kwargs["hidden_states"])
        return None if new is None else (args, {**kwargs, "hidden_states": new})

    return hook


def _on_output(see: Callable[[Tensor, Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        new = see(args[0] if args else kwargs["hidden_states"], hidden_of(output))
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook


@contextmanager
def _watched(module: nn.Module, hook: Callable[..., Any], *, before: bool, name: str) -> Iterator[None]:
    """A hook for as long as the block lasts. Raises at its end when it was never called."""
    called = False

    def noted(*given: Any) -> Any:
        nonlocal called
        called = True
        return hook(*given)

    handle: RemovableHandle = (
        module.register_forward_pre_hook(noted, with_kwargs=True)
        if before
        else module.register_forward_hook(noted, with_kwargs=True)
    )
    try:
        yield
    finally:
        handle.remove()
    if not called:
        raise ConfigError(
            f"nothing passed through {name} while it was tapped",
            needs="a forward pass of its model within the block",
            found="none that ran this part (a compiled forward runs without hooks)",
            do="run the model inside of the `with` block, uncompiled",
        )


@contextmanager
def _branch(block: Block, branch: Branch, see: Callable[[Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    cross, norms = block.cross_attention, (block.norm_attention_out, block.norm_ffn_out)
    writers = {
        "attention": block.attention.output.owner if norms[0] is None else norms[0].module,
        "cross_attention": None if cross is None else cross.output.owner,
        "ffn": block.ffn.module if norms[1] is None else norms[1].module,
    }
    writer = writers[branch]
    if writer is None:
        raise ConfigError(f"{block.path} has no {branch}", needs="a block with this branch", do="choose another branch")
    shape = torch.Size()

    def enters(hidden: Tensor) -> None:
        nonlocal shape
        shape = hidden.shape

    def seen(inputs: Tensor, hidden: Tensor) -> Tensor | None:
        new = see(inputs, hidden.reshape(shape))  # some blocks lay all tokens in one row of positions
        return None if new is None else new.reshape(hidden.shape)

    name = f"the {branch} of {block.path}"
    with tap_inputs(block, enters), _watched(writer, _on_output(seen), before=False, name=name):
        yield


def _module(part: Weight | Block) -> nn.Module:
    if isinstance(part, Block):
        return part.module
    if part.kind != "linear":
        raise ValueError(f"{part.role} is a {part.kind}: only linear maps have inputs and outputs to tap")
    if part.routed and part.expert is None:
        raise ValueError(f"{part.name} holds the maps of all experts: tap those of ffn.expert(index)")
    return part.owner


def _name(part: Weight | Block) -> str:
    return part.path if isinstance(part, Block) else f"{part.name} ({part.role})"


def _kept(change: Change, hidden: Tensor, part: Weight | Block) -> Tensor:
    """`change(hidden)`, refused unless it has the shape and dtype of `hidden`."""
    new = change(hidden)
    if not isinstance(new, Tensor) or new.shape != hidden.shape or new.dtype != hidden.dtype:
        found = f"{tuple(new.shape)} {new.dtype}" if isinstance(new, Tensor) else type(new).__name__
        raise ValueError(f"{_name(part)} carries {tuple(hidden.shape)} {hidden.dtype}, not {found}")
    return new
