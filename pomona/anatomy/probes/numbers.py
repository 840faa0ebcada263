"""Probes of what is counted: the forward pass in two parts, sizes, parameters that nobody mentions, gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pomona.anatomy.block import Stack
from pomona.anatomy.body import Anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.check import Check, equal
from pomona.anatomy.probes.lab import PLACE, answers_of, has_no_effect, normalize, outputs_of, replaced
from pomona.anatomy.space import Axis
from pomona.anatomy.taps import tap_inputs
from pomona.anatomy.weight import Weight

VANISHED = 1e-12
"""A gradient that is smaller, relative to the largest one, is rounding."""


def probe_forward(body: Anatomy) -> Iterator[Check]:
    """Hidden states and head, one after the other, give the model's logits."""
    inputs = example_inputs(body)
    if body.head is not None and body.pool is not None:
        with torch.no_grad():
            found = body.logits(body.hidden(**inputs))
            expected = next(answer for answer in answers_of(body, inputs) if answer.shape == found.shape)
        yield equal("forward", "logits of hidden states", found, expected)


def probe_embedding(body: Anatomy) -> Iterator[Check]:
    """What enters the first block is the scaled embedding with what is declared to be added, projected and normed."""
    if body.embedding is None:
        return
    inputs = example_inputs(body)
    for stack, name in zip(body.stacks, ("input_ids", "decoder_input_ids"), strict=False):
        seen: list[Tensor] = []
        with tap_inputs(stack.blocks[0], seen.append):
            outputs_of(body, inputs)
        expected = _embedded(body, stack, body.embedding.read()[inputs[name]] * body.embedding_scale)
        part = f"{body.embedding.name} times {body.embedding_scale:.4g} before {stack.path}"
        yield equal("embedding", part, seen[0].detach(), expected)


def _embedded(body: Anatomy, stack: Stack, hidden: Tensor) -> Tensor:
    """What becomes of token embeddings before the first block: tables of their width, projection, other tables."""
    added = [] if stack.positions is None else [(stack.positions, stack.first_position + torch.arange(hidden.shape[1]))]
    added += [(table, torch.zeros(hidden.shape[1], dtype=torch.int64)) for table in stack.tables]
    projection, norm = body.around.get("embedding_projection"), stack.embedding_norm
    for space in dict.fromkeys((body.embedding.axes[1] if body.embedding else None, Axis((body.residual,)))):
        if space == Axis((body.residual,)) and isinstance(projection, Weight):
            hidden = projection.apply(hidden)
        for table, rows in added:
            hidden = hidden + table.read()[rows] if table.axes[1] == space else hidden
        hidden = normalize(norm, hidden) if norm is not None and norm.gain.axes[0] == space else hidden
    return hidden.detach()


def probe_positions(body: Anatomy) -> Iterator[Check]:
    """A row of a table of positions acts at its position."""
    inputs = example_inputs(body)
    for stack in body.stacks:
        table = stack.positions
        if table is None or body.embedding is None:
            continue
        seen: list[Tensor] = []
        row = torch.arange(table.shape[0]) == stack.first_position + PLACE
        for values in (table.read(), table.read() + row[:, None]):
            with replaced((table, values)), tap_inputs(stack.blocks[0], seen.append):
                outputs_of(body, inputs)
        moved = (seen[1] - seen[0]).abs().amax((0, 2)).nonzero().flatten().tolist()
        part = f"row {stack.first_position + PLACE} of {table.name}"
        yield Check("positions", part, moved == [PLACE], f"acts at {moved}")


def probe_sizes(body: Anatomy) -> Iterator[Check]:
    """The configuration's numbers are those of the tensors, and every parameter is counted."""
    config = body.config
    for declared, stack in zip(body.shape.stacks, body.stacks, strict=True):
        fields = declared.fields or body.shape.fields
        for block in stack.blocks:
            own, ffn = block.attention, block.ffn
            pairs = [
                (fields.heads, own.num_heads),
                (fields.kv_heads, own.num_kv_heads),
                (fields.head_dim, own.head_dim.size),
            ]
            experts = declared.block.experts
            if ffn.experts is None or experts is None:
                pairs.append((fields.feed_forward, ffn.width))
            else:
                pairs += [(experts.feed_forward, ffn.width), (experts.count, ffn.num_experts)]
            for name, size in pairs:
                value = getattr(config, name, None)
                if value is not None:
                    yield Check(
                        "sizes", f"{block.path}: {name}", value == size, f"{value} in the configuration, {size} here"
                    )
        if stack.positions is not None and body.embedding is not None:
            rows, most = stack.positions.shape[0] - stack.first_position, body.max_positions
            found = f"{most} positions, {rows} rows in the table"
            yield Check("sizes", f"{stack.path}: {fields.max_positions}", most is not None and most <= rows, found)
        count = getattr(config, declared.count)
        yield Check("sizes", f"{stack.path}: {declared.count}", count == len(stack.blocks), f"{count}")
    evidence = {
        "rotary": any(block.attention.rotary for block in body.blocks),
        "learned": any(stack.positions is not None for stack in body.stacks),
        "relative_bias": any(part.role.endswith("bias_table") for part in body.parts()),
    }
    kind = body.shape.positions
    yield Check("sizes", "positions", evidence.get(kind, True), f"{kind} declared, {evidence} found")
    seen = {part.key: part.numel() for part in body.parts()}
    unseen = sum(body.model.get_parameter(name).numel() for name in (*body.unseen, *body.elsewhere))
    total = sum(parameter.numel() for parameter in body.model.parameters())
    yield Check("sizes", "all parameters", sum(seen.values()) + unseen == total, f"{total}")


def probe_unseen(body: Anatomy) -> Iterator[Check]:
    """Parameters that the declaration does not mention have no part in the outputs."""
    inputs = example_inputs(body)
    expected = outputs_of(body, inputs)
    generator = torch.Generator().manual_seed(2)
    for name in body.unseen:
        parameter = body.model.get_parameter(name)
        kept = parameter.detach().clone()
        parameter.data.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        yield equal("unseen", name, outputs_of(body, inputs), expected)
        parameter.data.copy_(kept)


def probe_gradients(body: Anatomy) -> Iterator[Check]:
    """Gradients reach every part, unless it provably has no effect at all."""
    inputs = example_inputs(body)
    with torch.enable_grad():
        output = torch.cat([answer.flatten() for answer in answers_of(body, inputs)])
        parameters = {id(part.parameter): part.parameter for part in body.parts()}
        found = torch.autograd.grad(output.square().mean(), list(parameters.values()), allow_unused=True)
    gradients = dict(zip(parameters, found, strict=True))
    largest = max(float(gradient.abs().max()) for gradient in found if gradient is not None)
    for part in body.parts():
        gradient = gradients[id(part.parameter)]
        size = 0.0 if gradient is None else float(part.canonical(gradient).abs().max()) / largest
        reached, note = size > VANISHED, f"size {size:.1e}"
        if not reached and has_no_effect(body, part, inputs):
            reached, note = True, "proven to have no effect on the outputs"
        yield Check("gradients", f"{part.name} ({part.role})", reached, note)
