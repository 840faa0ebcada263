"""Probe of the stack: blocks can be left out, and the configuration follows."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from pomona.anatomy.architecture import sized
from pomona.anatomy.body import Anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.check import Check, equal
from pomona.anatomy.probes.lab import outputs_of
from pomona.ground.errors import UnsupportedModel


def probe_blocks(body: Anatomy) -> Iterator[Check]:
    """Deleting a block equals skipping it, also in a model that is made anew from the configuration."""
    if "blockwise" not in body.capabilities:
        return

    def skip(module: nn.Module, args: Any, output: Any) -> Any:
        return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

    inputs = example_inputs(body)
    pairs = [(stack, block) for stack in body.stacks for block in stack.blocks]
    for stack, block in pairs:
        if len(stack.blocks) < 2:
            continue
        handle = block.module.register_forward_hook(skip)
        skipped = outputs_of(body, inputs)
        handle.remove()
        shorter = Anatomy(copy.deepcopy(body.model), body.shape)
        others = [index for index in range(len(stack.blocks)) if index != block.index]
        try:
            shorter.restack_(others, stack=stack.name if len(body.stacks) > 1 else None)
        except UnsupportedModel as refusal:
            yield Check("blocks", f"without {block.path}", True, f"refused: {refusal.found}")
            continue
        yield equal("blocks", f"without {block.path}", outputs_of(shorter, inputs), skipped)
        again = _made_anew(shorter.model)
        if isinstance(again, str):
            yield Check("blocks", f"without {block.path}, made anew", False, again)
        else:
            found = outputs_of(Anatomy(again, body.shape), inputs)
            yield equal("blocks", f"without {block.path}, made anew", found, skipped)


def _made_anew(model: Any) -> Any:
    """A model of the same configuration with the same weights, or why there is none."""
    with torch.random.fork_rng(devices=[]):
        fresh = sized(type(model))(copy.deepcopy(model.config)).to(torch.float64).eval()
    try:
        fresh.load_state_dict(model.state_dict())
    except RuntimeError as error:
        return str(error).splitlines()[-1].strip()
    return fresh
