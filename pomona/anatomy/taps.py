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
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pomona.anatomy.block import Block, Stack
from pomona.anatomy.weight import Weight
from pomona.ground.errors import ConfigError

Callback = Callable[[Tensor], None]
Change = Callable[[Tensor], Tensor]
Branch = Literal["attention", "cross_attention", "ffn"]


@contextmanager
def tap_inputs(part: Weight | Block, callback: Callback) -> Iterator[None]:
    """Within the block, call `callback` with what enters a part, at each of its calls.

    Args:
        part: a linear map, or a block.
        callback: gets (rows, inputs) of a linear map, rows being batch times tokens, or the (B, T, D) hidden states of
            a block; with their gradient history, if any.
    """

    def see(hidden: Tensor) -> None:
        callback(hidden.reshape(-1, hidden.shape[-1]) if isinstance(part, Weight) else hidden)

    with _watched(_module(part), _on_input(see), before=True, name=_name(part)):
        yield


@contextmanager
def tap_outputs(part: Weight | Block, callback: Callback) -> Iterator[None]:
    """Within the block, call `callback` with what leaves a part, at each of its calls.

    Args:
        part: a linear map, bias included (of fused ones only its own outputs), or a block.
        callback: gets (rows, outputs) of a linear map, or the (B, T, D) hidden states of a block.
    """

    def see(inputs: Tensor, hidden: Tensor) -> None:
        callback(_own(part, hidden).reshape(-1, part.shape[0]) if isinstance(part, Weight) else hidden)

    with _watched(_module(part), _on_output(see), before=False, name=_name(part)):
        yield


@contextmanager
def replace_inputs(part: Weight | Block, change: Change) -> Iterator[None]:
    """Within the block, let a part compute with `change` of what enters it, at each of its calls.

    Of several linear maps that are fused in one module only the named one gets other inputs (its outputs are computed
    again); a `tap_inputs` there shows what the module gets.

    Args:
        part: a linear map, or a block.
        change: gets the inputs as they are, (..., inputs) or (B, T, D), and returns a tensor of the same shape and
            dtype.
    """

    def again(inputs: Tensor, outputs: Tensor) -> Tensor:
        assert isinstance(part, Weight)
        return _with_own(part, outputs, part.apply(_kept(change, inputs, part)))

    if isinstance(part, Weight) and part.fused:
        watched = _watched(_module(part), _on_output(again), before=False, name=_name(part))
    else:
        watched = _watched(
            _module(part), _on_input(lambda hidden: _kept(change, hidden, part)), before=True, name=_name(part)
        )
    with watched:
        yield


@contextmanager
def replace_outputs(part: Weight | Block, change: Change) -> Iterator[None]:
    """Within the block, let what follows a part compute with `change` of what leaves it, at each of its calls.

    Args:
        part: a linear map (of fused ones only its own outputs), or a block.
        change: gets the outputs as they are, (..., outputs) or (B, T, D), and returns a tensor of the same shape and
            dtype.
    """

    def changed(inputs: Tensor, outputs: Tensor) -> Tensor:
        if isinstance(part, Weight):
            return _with_own(part, outputs, _kept(change, _own(part, outputs), part))
        return _kept(change, outputs, part)

    with _watched(_module(part), _on_output(changed), before=False, name=_name(part)):
        yield


def tap_branch(block: Block, branch: Branch, callback: Callback) -> Any:
    """Within the block, call `callback` with the (B, T, D) that a branch adds to the residual stream, at each call.

    A `branch_scale` other than 1 multiplies it afterwards.
    """
    return _branch(block, branch, lambda inputs, hidden: callback(hidden))


def replace_branch(block: Block, branch: Branch, change: Change) -> Any:
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


# A hook that is given the hidden states and may return others; it hides how modules take and return them.


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


def _branch(block: Block, branch: Branch, see: Callable[[Tensor, Tensor], Tensor | None]) -> Any:
    cross, norms = block.cross_attention, (block.norm_attention_out, block.norm_ffn_out)
    writers = {
        "attention": block.attention.output.owner if norms[0] is None else norms[0].module,
        "cross_attention": None if cross is None else cross.output.owner,
        "ffn": block.ffn.module if norms[1] is None else norms[1].module,
    }
    writer = writers[branch]
    if writer is None:
        raise ConfigError(f"{block.path} has no {branch}", needs="a block with this branch", do="choose another branch")
    return _watched(writer, _on_output(see), before=False, name=f"the {branch} of {block.path}")


def _module(part: Weight | Block) -> nn.Module:
    if isinstance(part, Block):
        return part.module
    if part.kind != "linear":
        raise ValueError(f"{part.role} is a {part.kind}: only linear maps have inputs and outputs to tap")
    if part.routed:
        raise ValueError(f"{part.name} holds the maps of experts, which get the tokens that a router sends them")
    return part.owner


def _name(part: Weight | Block) -> str:
    return part.path if isinstance(part, Block) else f"{part.name} ({part.role})"


def _own(weight: Weight, outputs: Tensor) -> Tensor:
    return outputs if weight.rows is None else outputs[..., weight.rows]


def _with_own(weight: Weight, outputs: Tensor, own: Tensor) -> Tensor:
    """`outputs` of the whole module with those of one of its fused maps replaced."""
    if weight.rows is None:
        return own
    outputs = outputs.clone()
    outputs[..., weight.rows] = own
    return outputs


def _kept(change: Change, hidden: Tensor, part: Weight | Block) -> Tensor:
    """`change(hidden)`, refused unless it has the shape and dtype of `hidden`."""
    new = change(hidden)
    if not isinstance(new, Tensor) or new.shape != hidden.shape or new.dtype != hidden.dtype:
        found = f"{tuple(new.shape)} {new.dtype}" if isinstance(new, Tensor) else type(new).__name__
        raise ValueError(f"{_name(part)} carries {tuple(hidden.shape)} {hidden.dtype}, not {found}")
    return new
