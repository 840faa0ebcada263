"""Probe of roles: what acts at which position, and what acts linearly."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pomona.anatomy.block import Attention
from pomona.anatomy.body import Anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.check import DIFFERENT, EQUAL, Check, difference
from pomona.anatomy.probes.lab import PLACE, at_tokens, attentions_of, lengths_of, read_by
from pomona.anatomy.taps import replace_outputs
from pomona.anatomy.weight import Weight


def probe_roles(body: Anatomy) -> Iterator[Check]:
    """Queries act at their own position; keys and values where the mask allows; values and `up` act linearly."""
    inputs = example_inputs(body, batch=1)
    for block, attention, _ in attentions_of(body):
        where = f"{block.path} ({attention.query.role.rsplit('.', 1)[0]})"
        queries, _ = lengths_of(body, attention, inputs)
        for weight in (attention.query, attention.key, attention.value):
            moved = _positions_moved(body, weight, attention.output, inputs)
            seen_from = [place for place in range(queries) if attention.sees(place, PLACE)]
            wanted = [PLACE] if weight is attention.query else seen_from
            yield Check("roles", f"{where}: {weight.role}", moved == wanted, f"{PLACE} acts at {moved}")
        yield _linear_in(body, attention.value, attention.output, inputs, True, where)
        yield _linear_in(body, attention.key, attention.output, inputs, False, where)
        yield from _compared(body, attention, inputs, where)
    for block in body.blocks:
        for ffn in (block.ffn, block.ffn.shared):
            if ffn is not None and ffn.gate is not None and ffn.experts is None:
                yield _linear_in(body, ffn.up, ffn.down, inputs, True, block.path)
                yield _linear_in(body, ffn.gate, ffn.down, inputs, False, block.path)


def _compared(body: Anatomy, attention: Attention, inputs: dict[str, Tensor], where: str) -> Iterator[Check]:
    """Projected positions are compared with what tokens give as the other side: with keys as queries, and so on."""
    pairs = (
        (attention.position_query, attention.query, attention.key),
        (attention.position_key, attention.key, attention.query),
    )
    for weight, same_side, other_side in pairs:
        if weight is None:
            continue
        for silent, acts in ((same_side, True), (other_side, False)):
            with replace_outputs(silent, torch.zeros_like):
                plain = read_by(body, attention.output, inputs)
                with replace_outputs(weight, lambda rows: 2 * rows):
                    change = difference(read_by(body, attention.output, inputs), plain)
            found = change > DIFFERENT if acts else change < EQUAL
            part = f"{where}: {weight.role} acts without {silent.role.rpartition('.')[2]}: {acts}"
            yield Check("roles", part, found, f"difference {change:.1e}")


def _positions_moved(body: Anatomy, weight: Weight, reader: Weight, inputs: dict[str, Tensor]) -> list[int]:
    """Positions at which `reader` gets something else when the outputs of `weight` at `PLACE` change."""
    plain = read_by(body, reader, inputs)
    with replace_outputs(weight, at_tokens(lambda rows: rows * (torch.arange(rows.shape[-2]) != PLACE)[:, None])):
        moved = read_by(body, reader, inputs)
    return (moved - plain).abs().amax(-1).nonzero().flatten().tolist()


def _linear_in(
    body: Anatomy, weight: Weight, reader: Weight, inputs: dict[str, Tensor], linear: bool, where: str
) -> Check:
    """Whether doubling the outputs of `weight` doubles what `reader` gets, as `linear` expects."""
    plain = read_by(body, reader, inputs)
    with replace_outputs(weight, at_tokens(lambda rows: 2 * rows)):
        doubled = read_by(body, reader, inputs)
    error = difference(doubled, 2 * plain)
    passed = error < EQUAL if linear else error > DIFFERENT
    return Check("roles", f"{where}: {weight.role} {'acts linearly' if linear else 'does not'}", passed, f"{error:.1e}")
