"""Probes of invariances: permuted spaces, rescaled norms, and that every annotation is needed for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pomona.anatomy.body import Anatomy
from pomona.anatomy.inputs import example_inputs, special_ids
from pomona.anatomy.permute import derangement, permutable, reorder_
from pomona.anatomy.probes.check import DIFFERENT, EQUAL, Check, difference, equal
from pomona.anatomy.probes.lab import freed, has_no_effect, outputs_of, replaced
from pomona.anatomy.space import Space
from pomona.anatomy.weight import Weight


def probe_spaces(body: Anatomy) -> Iterator[Check]:
    """Permuting a space in all of its weights changes nothing; permuting the vocabulary permutes the logits."""
    inputs = example_inputs(body)
    with freed(body):
        plain = outputs_of(body, inputs)
        for space, order in _orders(body):
            reorder_(body, space, order)
            yield equal("spaces", str(space), outputs_of(body, inputs), _reordered(body, plain, space, order))
            reorder_(body, space, order.argsort())
    if body.vocabulary is not None:
        yield _vocabulary(body, body.vocabulary, inputs)


@torch.no_grad()
def _vocabulary(body: Anatomy, space: Space, inputs: dict[str, Tensor]) -> Check:
    """Ids with a meaning of their own keep it: models count positions from padding, or look for the end."""
    kept = torch.ones(space.size, dtype=torch.bool).index_fill(0, torch.tensor(special_ids(body)).long(), False)
    free, order = kept.nonzero().flatten(), torch.arange(space.size)
    order[free] = free[torch.randperm(len(free), generator=torch.Generator().manual_seed(3))]
    back, in_words = order.argsort(), "head" in body.capabilities

    def answer(given: dict[str, Tensor]) -> Tensor:
        return body.logits(body.hidden(**given)) if in_words else outputs_of(body, given)

    plain = answer(inputs)
    added = body.logits_added
    if added is not None:
        added.copy_(added[:, order])
    reorder_(body, space, order)
    renamed = {name: back[ids] if name.endswith("input_ids") else ids for name, ids in inputs.items()}
    check = equal("spaces", str(space), answer(renamed), plain[..., order] if in_words else plain)
    reorder_(body, space, back)
    if added is not None:
        added.copy_(added[:, back])
    return check


def probe_fast(body: Anatomy) -> Iterator[Check]:
    """What is said to stand against permuting a space does: with it, outputs change."""
    inputs = example_inputs(body)
    plain = outputs_of(body, inputs)
    names = {fast.space for fast in body.fast}
    with freed(body):
        orders = [(space, order) for space, order in _orders(body) if space.name in names]
    for space, order in orders:
        reorder_(body, space, order)
        change = difference(outputs_of(body, inputs), _reordered(body, plain, space, order))
        reorder_(body, space, order.argsort())
        yield Check("fast", f"{space} cannot be permuted", change > DIFFERENT, f"difference {change:.1e}")


def _reordered(body: Anatomy, outputs: Tensor, space: Space, order: Tensor) -> Tensor:
    """What outputs become when a space is permuted: hidden states go along with the residual space."""
    return outputs[..., order] if space == body.residual and outputs.shape[-1:] == (space.size,) else outputs


def probe_annotations(body: Anatomy) -> Iterator[Check]:
    """Leaving any one weight out of a permutation is noticed, unless the weight provably has no effect at all."""
    silenced = tuple(f"{fast.path}." for fast in body.fast)
    with freed(body):
        for check, weight in _annotations(body, example_inputs(body)):
            if not any(path in weight.name for path in silenced):
                yield check


def _annotations(body: Anatomy, inputs: dict[str, Tensor]) -> Iterator[tuple[Check, Weight]]:
    plain = outputs_of(body, inputs)
    for space, order in _orders(body):
        expected = _reordered(body, plain, space, order)
        for left_out in body.members(space):
            weight = left_out[0]
            reorder_(body, space, order, left_out)
            change = difference(outputs_of(body, inputs), expected)
            reorder_(body, space, order.argsort(), left_out)
            found = f"difference {change:.1e}"
            noticed = change > EQUAL
            if not noticed:
                noticed = has_no_effect(body, weight, inputs)
                found = "proven to have no effect on the outputs" if noticed else f"unnoticed, {found}"
            yield Check("annotations", f"{space} without {weight.name} ({weight.role})", noticed, found), weight


def _orders(body: Anatomy) -> Iterator[tuple[Space, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    for space in body.spaces():
        order = derangement(space, generator)
        if permutable(body, space) and order is not None:
            yield space, order


def probe_rescaling(body: Anatomy) -> Iterator[Check]:
    """Multiplying what a norm gives and dividing what its readers take changes nothing, and each reader is needed."""
    inputs = example_inputs(body)
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
            yield Check("rescaling", part, change > EQUAL, f"difference {change:.1e}")
