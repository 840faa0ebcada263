"""Probe of the attention dispatcher: it reaches every attention and changes nothing by itself; masked equals cut."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pomona.anatomy.attention_call import AttentionCall, Place
from pomona.anatomy.block import Attention
from pomona.anatomy.body import Anatomy
from pomona.anatomy.dispatch import modify_attention
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.modifiers import HeadGate, OtherProbabilities, ScoreBias
from pomona.anatomy.probes.check import Check, equal
from pomona.anatomy.probes.lab import attentions_of, outputs_of, replaced
from pomona.ground.errors import UnsupportedModel

BY_ITSELF = "computes attention by itself; modifiers refuse it"


def probe_attention(body: Anatomy) -> Iterator[Check]:
    """Modifiers that change nothing leave the outputs, in every kernel; a closed gate equals a head without a reader.

    A model whose attention does not go through transformers' AttentionInterface passes when it is refused.
    """
    inputs = example_inputs(body)
    expected = outputs_of(body, inputs)
    try:
        with modify_attention(body, [ScoreBias(_nothing)]):
            found = outputs_of(body, inputs)
    except UnsupportedModel:
        yield Check("attention", "modifiers", True, BY_ITSELF)
        return
    yield equal("attention", "modifiers", found, expected)
    with modify_attention(body, [ScoreBias(_nothing), OtherProbabilities(lambda call, rows, weights: weights)]):
        found = outputs_of(body, inputs)
    yield equal("attention", "modifiers, written out", found, expected)
    for block, attention, cross in attentions_of(body):
        place, head = Place(block.kind, block.index, cross), attention.num_heads - 1
        gate = torch.ones(attention.num_heads)
        gate[head] = 0
        with modify_attention(body, [HeadGate(lambda at, place=place, gate=gate: gate if at == place else None)]):  # type: ignore[misc]
            masked = outputs_of(body, inputs)
        with replaced((attention.output, _without(attention, head))):
            cut = outputs_of(body, inputs)
        yield equal("attention", f"{place}: head {head}", masked, cut)


def _nothing(call: AttentionCall, rows: slice) -> Tensor:
    return call.query.new_zeros(rows.stop - rows.start, call.keys)


def _without(attention: Attention, head: int) -> Tensor:
    """The output projection without what it reads of a head."""
    width = attention.value_dim.size
    weights = attention.output.read().clone()
    weights[:, head * width : (head + 1) * width] = 0
    return weights
