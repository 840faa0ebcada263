"""Probe of the residual stream: what branches read, and what a block does with what they give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pomona.anatomy.block import Block, Stack
from pomona.anatomy.body import Anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.check import Check, equal
from pomona.anatomy.probes.lab import normalize, outputs_of
from pomona.anatomy.taps import hidden_of, tap_inputs
from pomona.anatomy.weight import Norm, Weight


def probe_placement(body: Anatomy) -> Iterator[Check]:
    """Attention and feed-forward read what the declared norms give, and a block adds what they give as declared."""
    inputs = example_inputs(body)
    for stack in body.stacks:
        for block in stack.blocks:
            flow = _flow(body, stack, block, inputs)
            state, branches = flow.entered, _branches(block)
            sum_at_once = block.placement == "parallel"
            added = torch.zeros_like(state)
            for branch, read, gave in zip(branches, flow.read, flow.gave, strict=True):
                expected = state if branch.before is None else normalize(branch.before, state)
                yield equal("placement", f"{block.path}: what {branch.name} reads", read, expected)
                gave = gave if branch.after is None else normalize(branch.after, gave)
                gave = gave if branch.scale is None else gave * branch.scale.read()
                if sum_at_once:
                    added = added + block.branch_scale * gave
                    continue
                state = state + block.branch_scale * gave
                state = state if branch.on_sum is None else normalize(branch.on_sum, state)
            yield equal("placement", f"{block.path} is {block.placement}-norm", flow.left, state + added)


@dataclass(frozen=True)
class _Branch:
    """Attention or feed-forward with the norms around it."""

    name: str
    reader: Weight
    writer: nn.Module
    before: Norm | None
    after: Norm | None
    on_sum: Norm | None
    scale: Weight | None


def _branches(block: Block) -> list[_Branch]:
    """What a block adds, in order."""
    cross, ffn = block.cross_attention, block.ffn
    attention = (block.attention.readers()[0], block.attention.output.owner)
    scale = block.scale_attention
    parts = [("attention", *attention, block.norm_attention, block.norm_attention_out, scale)]
    if cross is not None:
        parts.append(("cross attention", cross.query, cross.output.owner, block.norm_cross, None, None))
    feed = (ffn.router or ffn.up, ffn.module)
    parts.append(("feed-forward", *feed, block.norm_ffn, block.norm_ffn_out, block.scale_ffn))
    if block.placement == "post":
        return [_Branch(name, reader, writer, None, None, norm, by) for name, reader, writer, norm, _, by in parts]
    return [_Branch(name, reader, writer, norm, out, None, by) for name, reader, writer, norm, out, by in parts]


@dataclass
class _Flow:
    """(rows, hidden) each: what enters and leaves a block, what its branches read and give."""

    entered: Tensor
    left: Tensor
    read: list[Tensor]
    gave: list[Tensor]


def _flow(body: Anatomy, stack: Stack, block: Block, inputs: dict[str, Tensor]) -> _Flow:
    ends: list[Tensor] = []
    read: list[list[Tensor]] = []
    gave: list[Tensor] = []

    def flat(output: Any) -> Tensor:
        return hidden_of(output).detach().reshape(-1, body.hidden_size)

    with ExitStack() as taps:
        hooks = [
            block.module.register_forward_hook(lambda module, args, output: ends.extend(map(flat, (args, output))))
        ]
        for branch in _branches(block):
            hooks.append(branch.writer.register_forward_hook(lambda module, args, output: gave.append(flat(output))))
            read.append([])
            taps.enter_context(tap_inputs(branch.reader, read[-1].append))
        for hook in hooks:
            taps.callback(hook.remove)
        outputs_of(body, inputs)
    # A map may be called again, on relative positions.
    return _Flow(ends[0], ends[1], [calls[0].detach() for calls in read], gave)
