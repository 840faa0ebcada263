"""BlockWalk: calibrate block by block on cached inputs, passing on what the edited blocks compute."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pomona.anatomy.block import Block, Stack
from pomona.anatomy.body import Anatomy, of
from pomona.ground.errors import ConfigError, UnsupportedModel

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class _Held:
    """One batch on its way through a stack: hidden states, the other arguments of each block, carried outputs."""

    hidden: Tensor
    calls: list[Call]
    carried: dict[str, Any]


class _StackReached(Exception):
    """Ends a forward pass after the last block's arguments are known."""


class _Recorder(nn.Module):
    """Stands in for a block: notes how it is called, hands the hidden states on and computes nothing."""

    def __init__(self, block: nn.Module, calls: list[Call], returns: int, last: bool) -> None:
        super().__init__()
        self._block = [block]  # in a list, so that it does not become a submodule
        self._calls, self._returns, self._last = calls, returns, last

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._block[0], name)  # flags of the block that some stacks look at

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._calls.append((args, kwargs))
        if self._last:
            raise _StackReached
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *[None] * (self._returns - 1)) if self._returns else hidden


class BlockWalk:
    """Walk through the blocks of a model with the inputs that each block gets from calibration batches.

    The inputs of the first block are found by running the model up to it. On every next turn they have gone through
    the block as it then is, so that edits propagate. Only these inputs are kept: one hidden state per calibration
    token. Before the walk, the first sequence is sent through all blocks and compared with the model's own forward.

        with BlockWalk(model, batches) as walk:
            for block in walk:
                with tap_inputs(block.ffn.down, statistics):
                    walk.run()
                edit(block)

    With an encoder and a decoder, the encoder's blocks come first and the decoder reads the edited encoder.

    Args:
        model: a transformers model, or its anatomy. It is put in evaluation mode during the walk.
        batches: inputs of the model as keyword arguments (input_ids, attention_mask, ...), at least one.
        gradients: keep the graph within `outputs()`; the cached inputs are always detached.
    Raises:
        ConfigError: no batch.
        UnsupportedModel: walking the blocks does not give what the model computes.
    """

    def __init__(self, model: Any, batches: Sequence[dict[str, Tensor]], *, gradients: bool = False) -> None:
        self.body = model if isinstance(model, Anatomy) else of(model)
        if not batches:
            raise ConfigError("calibration needs at least one batch", found="none")
        self.batches, self.gradients = batches, gradients
        self.tokens = sum(batch["input_ids"].numel() for batch in batches if "input_ids" in batch)
        self._held: list[_Held] = []
        self._block: Block | None = None
        self._stack: Stack | None = None
        self._training = self.body.model.training

    def __enter__(self) -> Self:
        self._training = self.body.model.training
        self.body.require("blockwise", method="a walk block by block")
        self.body.model.eval()
        self._verify()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held, self._block, self._stack = [], None, None
        self.body.model.train(self._training)

    def __iter__(self) -> Iterator[Block]:
        for stack in self.body.stacks:
            self._stack = stack
            self._held = [self._capture(stack, batch) for batch in self.batches]
            for block in stack.blocks:
                self._block = block
                yield block
                if block.index + 1 < len(stack.blocks):
                    self._advance()
        self._held, self._block, self._stack = [], None, None

    @property
    def inputs(self) -> list[Tensor]:
        """Hidden states (B, T, D) that enter the current block, one tensor per batch."""
        return [held.hidden for held in self._held]

    def run(self) -> None:
        """Send every cached input through the current block and discard the outputs (for taps)."""
        for _ in self.outputs():
            pass

    def outputs(self) -> Iterator[Tensor]:
        """Hidden states that the current block, as it is now, makes of every cached input."""
        block = self._current()
        for held in self._held:
            with torch.set_grad_enabled(self.gradients):
                yield _hidden_of(_call(block, held))

    def _current(self) -> Block:
        if self._block is None:
            raise RuntimeError("there is no current block: iterate over the walk first")
        return self._block

    @torch.no_grad()
    def _advance(self) -> None:
        block, stack = self._current(), self._stack
        assert stack is not None
        for held in self._held:
            _step(stack, block, held)

    @torch.no_grad()
    def _capture(self, stack: Stack, batch: dict[str, Tensor]) -> _Held:
        """Run the model up to a stack, with recorders in the place of its blocks."""
        container = self.body.model.get_submodule(stack.path)
        blocks, calls = list(container), list[Call]()
        try:
            for index, block in enumerate(blocks):
                container[index] = _Recorder(block, calls, stack.returns, last=index + 1 == len(blocks))
            self.body.hidden(**batch)
        except _StackReached:
            pass
        finally:
            for index, block in enumerate(blocks):
                container[index] = block
        if len(calls) != len(blocks):
            raise UnsupportedModel(
                f"{type(self.body.model).__name__} cannot be walked block by block",
                needs=f"each of its {len(blocks)} blocks called once",
                found=f"{len(calls)} calls",
                do="choose a model whose forward runs its blocks once, in order",
            )
        args, kwargs = calls[0]
        hidden = args[0] if args else kwargs["hidden_states"]
        return _Held(hidden, [_without_hidden(call) for call in calls], {})

    @torch.no_grad()
    def _verify(self) -> None:
        """Refuse the model unless walking the first sequence equals its own forward, stack by stack."""
        batch = {name: values[:1] for name, values in self.batches[0].items()}
        left: dict[str, Tensor] = {}
        handles = [_note_output(stack, left) for stack in self.body.stacks]
        try:
            final = self.body.hidden(**batch)
        finally:
            for handle in handles:
                handle.remove()
        for stack in self.body.stacks:
            held = self._capture(stack, batch)
            for block in stack.blocks:
                _step(stack, block, held)
            self._refuse_unless_equal(held.hidden, left[stack.name], f"the blocks of {stack.path}")
        norm = stack.final_norm
        walked = held.hidden if norm is None else norm.module(held.hidden)
        self._refuse_unless_equal(walked, final, "its blocks and final norm")

    def _refuse_unless_equal(self, walked: Tensor, expected: Tensor, what: str) -> None:
        size = float(expected.abs().max())
        error = float((walked - expected).abs().max())
        if not error <= 64 * torch.finfo(expected.dtype).eps * size:
            raise UnsupportedModel(
                f"{type(self.body.model).__name__} cannot be walked block by block (nothing was changed)",
                needs=f"{what}, one after another, to give what the model's forward gives",
                found=f"an error of {error:.3g} in hidden states of size {size:.3g}",
                do="correct the declaration of its shape",
            )


def _note_output(stack: Stack, left: dict[str, Tensor]) -> RemovableHandle:
    """Keep in `left` what the last block of a stack gives."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        left[stack.name] = _hidden_of(output)

    return stack.blocks[-1].module.register_forward_hook(hook)


def _without_hidden(call: Call) -> Call:
    args, kwargs = call
    if args:
        return args[1:], kwargs
    return (), {name: value for name, value in kwargs.items() if name != "hidden_states"}


def _call(block: Block, held: _Held) -> Any:
    args, kwargs = held.calls[block.index]
    if held.carried:
        names = list(inspect.signature(block.module.forward).parameters)[1 : len(args) + 1]
        args = tuple(held.carried.get(name, value) for name, value in zip(names, args, strict=True))
        kwargs = {**kwargs, **{name: value for name, value in held.carried.items() if name not in names}}
    return block.module(held.hidden, *args, **kwargs)


def _step(stack: Stack, block: Block, held: _Held) -> None:
    """Send one batch through a block; what comes out enters the next."""
    output = _call(block, held)
    held.hidden = _hidden_of(output)
    held.carried = {name: output[index] for index, name in stack.carries}


def _hidden_of(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
