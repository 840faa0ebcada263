"""Probes of invariances: permuted spaces, rescaled norms, and that every annotation is needed for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pomona.anatomy.body import Anatomy
from pomona.anatomy.permute import derangement, permutable, reorder_
from pomona.anatomy.probes.check import DIFFERENT, Check, difference, equal
from pomona.anatomy.probes.lab import has_no_effect, outputs_of, probe_inputs, replaced
from pomona.anatomy.space import Space


def probe_spaces(body: Anatomy) -> Iterator[Check]:
    """Permuting a space in all of its weights changes nothing; permuting the vocabulary permutes the logits."""
    inputs = probe_inputs(body)
    expected = outputs_of(body, inputs)
    for space, order in _orders(body):
        reorder_(body, space, order)
        yield equal("spaces", str(space), outputs_of(body, inputs), expected)
        reorder_(body, space, order.argsort())
    order = torch.randperm(body.vocab_size, generator=torch.Generator().manual_seed(3))
    reorder_(body, body.vocabulary, order)
    renamed = {name: order.argsort()[ids] for name, ids in inputs.items()}
    wanted = expected if body.head is None else expected[..., order]
    yield equal("spaces", str(body.vocabulary), outputs_of(body, renamed), wanted)
    reorder_(body, body.vocabulary, order.argsort())


def probe_annotations(body: Anatomy) -> Iterator[Check]:
    """Leaving any one weight out of a permutation is noticed, unless the weight provably has no effect at all."""
    inputs = probe_inputs(body)
    expected = outputs_of(body, inputs)
    for space, order in _orders(body):
        members = body.members(space)
        for left_out in members:
            weight = left_out[0]
            reorder_(body, space, order, left_out)
            change = difference(outputs_of(body, inputs), expected)
            reorder_(body, space, order.argsort(), left_out)
            found = f"difference {change:.1e}"
            noticed = change > DIFFERENT
            if not noticed:
                noticed = has_no_effect(body, weight, inputs, expected)
                found = "proven to have no effect on the outputs" if noticed else f"unnoticed, {found}"
            yield Check("annotations", f"{space} without {weight.name} ({weight.role})", noticed, found)


def _orders(body: Anatomy) -> Iterator[tuple[Space, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    for space in body.spaces():
        order = derangement(space, generator)
        if permutable(body, space) and order is not None:
            yield space, order


def probe_rescaling(body: Anatomy) -> Iterator[Check]:
    """Multiplying what a norm gives and dividing what its readers take changes nothing, and each reader is needed."""
    inputs = probe_inputs(body)
    expected = outputs_of(body, inputs)
    generator = torch.Generator().manual_seed(7)
    for norm, readers in body.norm_readers():
        scale = torch.exp(torch.randn(norm.gain.shape, generator=generator, dtype=torch.float64))
        grown = [(part, part.read() * scale) for part in norm.weights() if part is not norm.gain]
        grown.append((norm.gain, norm.read() * scale - norm.offset))
        shrunk = [(reader, reader.read() / scale) for reader in readers]
        with replaced(*grown, *shrunk):
            yield equal("rescaling", norm.gain.name, outputs_of(body, inputs), expected)
        for left_out in readers:
            with replaced(*grown, *[change for change in shrunk if change[0] is not left_out]):
                change = difference(outputs_of(body, inputs), expected)
            part = f"{norm.gain.name} without {left_out.name} ({left_out.role})"
            yield Check("rescaling", part, change > DIFFERENT, f"difference {change:.1e}")
