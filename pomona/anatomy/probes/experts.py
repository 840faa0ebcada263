"""Probe of experts: which of them a token uses, and how the maps of one act."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pomona.anatomy.block import Block, FeedForward
from pomona.anatomy.body import Anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.check import DIFFERENT, EQUAL, Check, difference, equal
from pomona.anatomy.probes.lab import outputs_of, replaced
from pomona.anatomy.taps import hidden_of, tap_inputs
from pomona.anatomy.weight import Weight


def probe_experts(body: Anatomy) -> Iterator[Check]:
    """A token uses the experts with the largest router outputs, as many as declared; `up` acts linearly, `gate` not."""
    inputs = example_inputs(body)
    for block in body.blocks:
        ffn = block.ffn
        if ffn.router is None:
            continue
        seen: list[Tensor] = []
        with tap_inputs(ffn.router, seen.append):
            outputs_of(body, inputs)
        rows = seen[0].detach()
        plain = _gives(ffn, rows)
        chosen = (rows @ ffn.router.read().T).topk(ffn.active, -1).indices
        for index in range(ffn.num_experts):
            down = ffn.expert(index).down
            with replaced((down, torch.zeros(down.shape))):
                moved = (_gives(ffn, rows) - plain).abs().amax(-1) > 0
            wanted = (chosen == index).any(-1)
            found = f"{int(moved.sum())} tokens use it, {int(wanted.sum())} were sent to it"
            yield Check("experts", f"{block.path}: expert {index}", bool((moved == wanted).all()), found)
        if ffn.gate is not None:
            wholes = [ffn, *([] if ffn.shared is None else [ffn.shared])]
            gates = [part.gate for part in wholes if part.gate is not None]
            for name, maps, linear in (("up", [part.up for part in wholes], True), ("gate", gates, False)):
                with replaced(*[(weight, 2 * weight.read()) for weight in maps]):
                    error = difference(_gives(ffn, rows), 2 * plain)
                passed = error < EQUAL if linear else error > DIFFERENT
                yield Check("experts", f"{block.path}: {name} acts linearly: {linear}", passed, f"{error:.1e}")
        if ffn.shared is not None:
            yield _shared(block, ffn, rows)


def _shared(block: Block, ffn: FeedForward, rows: Tensor) -> Check:
    """The shared feed-forward alone, and its gate."""
    off: list[tuple[Weight, Tensor]] = [(ffn.down, torch.zeros(ffn.down.shape))]
    with replaced(*off):
        gated = _gives(ffn, rows)
        if ffn.shared_gate is None:
            return Check("experts", f"{block.path}: shared", bool(gated.abs().max() > 0), "acts on every token")
        gate = torch.sigmoid(rows @ ffn.shared_gate.read().T)
        with replaced((ffn.shared_gate, torch.zeros(ffn.shared_gate.shape))):
            half = _gives(ffn, rows)
    return equal("experts", f"{block.path}: gate of the shared feed-forward", gated, 2 * half * gate)


def _gives(ffn: FeedForward, rows: Tensor) -> Tensor:
    """(rows, hidden) that the feed-forward gives for (rows, hidden)."""
    with torch.no_grad():
        return hidden_of(ffn.module(rows[None]))[0]
