"""BlockWalk: calibrate block by block on cached inputs, passing on what the edited blocks compute.

Memory is that of the cache, one hidden state per calibration token, and of one block at work. With a device, only the
current block and the batch that goes through it are there, so that a model need not fit on an accelerator. It need not
fit in memory either: weights that transformers maps from a file (loaded in the dtype of the file) stay there until
they are edited.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from pomona.anatomy.block import Block, Stack
from pomona.anatomy.body import Anatomy, of
from pomona.anatomy.residence import Residence
from pomona.anatomy.taps import hidden_of, tap_outputs
from pomona.anatomy.weight import Weight
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


class _StandIn(nn.Module):
    """Stands in for a block: computes nothing, and hands on the hidden states that it gets or is given.

    Args:
        block: whose place it takes; flags that some stacks look at are read from it.
        returns: as of its stack.
        calls: where its arguments are noted, or None.
        gives: hidden states that it gives instead of its inputs.
        ends: leave the forward pass here.
    """

    def __init__(
        self, block: nn.Module, returns: int, calls: list[Call] | None, gives: Tensor | None = None, ends: bool = False
    ) -> None:
        super().__init__()
        self._block = [block]  # in a list, so that it does not become a submodule
        self._returns, self._calls, self._gives, self._ends = returns, calls, gives, ends

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._block[0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._calls is not None:
            self._calls.append((args, kwargs))
        if self._ends:
            raise _StackReached
        hidden = self._gives
        if hidden is None:
            hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *[None] * (self._returns - 1)) if self._returns else hidden


class SeenEnough(Exception):
    """Raised by a tap: the rest of the pass need not run. `BlockWalk.run` catches it, or whoever asked for it."""


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

    With an encoder and a decoder, the encoder's blocks come first and the decoder reads what they, as edited, made of
    each batch; nothing is computed twice.

    Args:
        model: a transformers model, or its anatomy. It is put in evaluation mode during the walk.
        batches: inputs of the model as keyword arguments (input_ids, attention_mask, ...), at least one; where the
            model is.
        gradients: keep the graph within `outputs()`; the cached inputs are always detached.
        device: where the current block computes, as "cuda"; it is there while it is current, with one batch at a time.
            Everything else stays where it is. Default: nothing is moved.
    Raises:
        ConfigError: no batch.
        UnsupportedModel: walking the blocks does not give what the model computes.
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[dict[str, Tensor]],
        *,
        gradients: bool = False,
        device: str | torch.device | None = None,
    ) -> None:
        self.body = model if isinstance(model, Anatomy) else of(model)
        if not batches:
            raise ConfigError("calibration needs at least one batch", found="none")
        self.batches, self.gradients = batches, gradients
        self.tokens = sum(batch["input_ids"].numel() for batch in batches if "input_ids" in batch)
        self.residence = Residence(device)
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
        self._leave()
        self.body.model.train(self._training)

    def __iter__(self) -> Iterator[Block]:
        walked: dict[str, list[Tensor]] = {}
        try:
            for stack in self.body.stacks:
                self._stack = stack
                self._held = self._captured(stack, self.batches, walked)
                for block in stack.blocks:
                    self._block = block
                    with self.residence.of(block.module):
                        yield block
                        if block is not self.body.blocks[-1]:
                            self._advance()
                walked[stack.name] = self.inputs
        finally:
            self._leave()

    def _leave(self) -> None:
        self._held, self._block, self._stack = [], None, None

    @property
    def inputs(self) -> list[Tensor]:
        """Hidden states (B, T, D) that enter the current block, one tensor per batch."""
        return [held.hidden for held in self._held]

    def run(self) -> None:
        """Send every cached input through the current block for taps; one that raises `SeenEnough` ends its batch."""
        block = self._current()
        for held in self._held:
            with torch.set_grad_enabled(self.gradients), suppress(SeenEnough):
                self._call(block, held)

    def outputs(self) -> Iterator[Tensor]:
        """Hidden states that the current block, as it is now, makes of every cached input, on the block's device."""
        block = self._current()
        for held in self._held:
            with torch.set_grad_enabled(self.gradients):
                yield hidden_of(self._call(block, held))

    def _current(self) -> Block:
        if self._block is None:
            raise RuntimeError("there is no current block: iterate over the walk first")
        return self._block

    @torch.no_grad()
    def _advance(self) -> None:
        block, stack = self._current(), self._stack
        assert stack is not None
        for held in self._held:
            self._step(stack, block, held)

    def _step(self, stack: Stack, block: Block, held: _Held) -> None:
        """Send one batch through a block; what comes out enters the next."""
        output = self._call(block, held)
        held.hidden = self.residence.back(hidden_of(output), like=held.hidden)
        held.carried = {name: self.residence.back(output[index], like=held.hidden) for index, name in stack.carries}

    def _call(self, block: Block, held: _Held) -> Any:
        args, kwargs = held.calls[block.index]
        if held.carried:
            names = list(inspect.signature(block.module.forward).parameters)[1 : len(args) + 1]
            args = tuple(held.carried.get(name, value) for name, value in zip(names, args, strict=True))
            kwargs = {**kwargs, **{name: value for name, value in held.carried.items() if name not in names}}
        hidden, args, kwargs = self.residence.there((held.hidden, args, kwargs))
        return block.module(hidden, *args, **kwargs)

    @torch.no_grad()
    def _captured(
        self, stack: Stack, batches: Sequence[dict[str, Tensor]], walked: dict[str, list[Tensor]]
    ) -> list[_Held]:
        """Run the model up to a stack, with `walked` as what earlier stacks make of each batch."""
        found = []
        for index, batch in enumerate(batches):
            calls: list[Call] = []
            with ExitStack() as standing:
                for earlier in self.body.stacks[: self.body.stacks.index(stack)]:
                    standing.enter_context(_skipped(self.body, earlier, walked[earlier.name][index]))
                standing.enter_context(_recorded(self.body, stack, calls))
                with suppress(_StackReached):
                    self.body.hidden(**batch)
            if len(calls) != len(stack.blocks):
                raise UnsupportedModel(
                    f"{type(self.body.model).__name__} cannot be walked block by block",
                    needs=f"each of the {len(stack.blocks)} blocks of {stack.path} called once",
                    found=f"{len(calls)} calls",
                    do="choose a model whose forward runs its blocks once, in order",
                )
            args, kwargs = calls[0]
            hidden = args[0] if args else kwargs["hidden_states"]
            found.append(_Held(hidden, [_without_hidden(call) for call in calls], {}))
        return found

    @torch.no_grad()
    def _verify(self) -> None:
        """Refuse the model unless walking the first sequence equals its own forward, stack by stack."""
        batch = {name: values[:1] for name, values in self.batches[0].items()}
        left: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for block in self.body.blocks:
                hooks.enter_context(self.residence.visits(block.module))
            for stack in self.body.stacks:
                hooks.enter_context(tap_outputs(stack.blocks[-1], partial(left.__setitem__, stack.name)))
            final = self.body.hidden(**batch)
        walked: dict[str, list[Tensor]] = {}
        for stack in self.body.stacks:
            (held,) = self._captured(stack, [batch], walked)
            for block in stack.blocks:
                with self.residence.of(block.module):
                    self._step(stack, block, held)
            self._refuse_unless_equal(held.hidden, left[stack.name], f"the blocks of {stack.path}")
            walked[stack.name] = [held.hidden]
        norm = stack.final_norm
        after = held.hidden if norm is None else norm.module(held.hidden)
        projection = self.body.around.get("output_projection")
        after = projection.apply(after) if isinstance(projection, Weight) else after
        self._refuse_unless_equal(after, final, "its blocks and final norm")

    def _refuse_unless_equal(self, walked: Tensor, expected: Tensor, what: str) -> None:
        expected = expected.to(walked.device)
        size = float(expected.abs().max())
        error = float((walked - expected).abs().max())
        if not error <= 64 * torch.finfo(expected.dtype).eps * size:
            raise UnsupportedModel(
                f"{type(self.body.model).__name__} cannot be walked block by block (nothing was changed)",
                needs=f"{what}, one after another, to give what the model's forward gives",
                found=f"an error of {error:.3g} in hidden states of size {size:.3g}",
                do="correct the declaration of its shape",
            )


def _recorded(body: Anatomy, stack: Stack, calls: list[Call]) -> AbstractContextManager[None]:
    """Within the block, a forward pass notes how each block of a stack is called, and ends at the last one."""
    last = stack.blocks[-1]
    return _replaced(body, stack, [_StandIn(b.module, stack.returns, calls, ends=b is last) for b in stack.blocks])


def _skipped(body: Anatomy, stack: Stack, hidden: Tensor) -> AbstractContextManager[None]:
    """Within the block, a forward pass has `hidden` leave a stack whose blocks compute nothing."""
    gives = [hidden, *[None] * (len(stack.blocks) - 1)]
    modules = [_StandIn(b.module, stack.returns, None, given) for b, given in zip(stack.blocks, gives, strict=True)]
    return _replaced(body, stack, modules)


@contextmanager
def _replaced(body: Anatomy, stack: Stack, modules: list[_StandIn]) -> Iterator[None]:
    container = body.model.get_submodule(stack.path)
    blocks = list(container)
    try:
        for index, module in enumerate(modules):
            container[index] = module
        yield
    finally:
        for index, block in enumerate(blocks):
            container[index] = block


def _without_hidden(call: Call) -> Call:
    args, kwargs = call
    if args:
        return args[1:], kwargs
    return (), {name: value for name, value in kwargs.items() if name != "hidden_states"}
