"""What experiments are made with: a copy of the model with telling weights, inputs, and ways to interfere."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pomona.anatomy.block import Attention, Block
from pomona.anatomy.body import Anatomy, of
from pomona.anatomy.declaration import Shape
from pomona.anatomy.probes.check import EQUAL, difference
from pomona.anatomy.taps import tap_inputs
from pomona.anatomy.weight import Norm, Weight

PLACE = 3
"""The position at which the roles of queries, keys and values are tried: not the first, which sees only itself."""


def enlarged_copy(model: Any, shape: Shape | str | None = None, seed: int = 0) -> Anatomy:
    """The anatomy of a float64 copy of `model` with large random weights, gains and biases, in evaluation mode.

    At the usual initialization biases are zero and gains one, so that most probes would pass whatever is declared.
    """
    copied = copy.deepcopy(model).to("cpu", torch.float64).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copied.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.dim() > 1:
                parameter.copy_(2 * noise / parameter.shape[-1] ** 0.5)
            else:
                is_gain = bool(parameter.mean() > 0.5)
                parameter.copy_(is_gain + 0.5 * noise)
    body = of(copied, shape)
    if "experts" in body.capabilities:
        copied.set_experts_implementation("eager")  # the grouped products do not know float64
    return body


def probe_inputs(body: Anatomy, batch: int = 2, tokens: int = 12, seed: int = 1) -> dict[str, Tensor]:
    """Random token ids; for a decoder of its own another, shorter sequence."""
    tokens = min(tokens, body.max_positions or tokens)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(body.vocab_size, (batch, tokens), generator=generator)
    if len(body.stacks) == 1:
        return {"input_ids": ids}
    return {"input_ids": ids, "decoder_input_ids": torch.randint(body.vocab_size, (batch, 7), generator=generator)}


def outputs_of(body: Anatomy, inputs: dict[str, Tensor]) -> Tensor:
    """The model's own logits, or its hidden states when it has no head."""
    with torch.no_grad():
        output: Tensor = body.hidden(**inputs) if body.head is None else body.model(**inputs).logits
    return output


def read_by(body: Anatomy, reader: Weight, inputs: dict[str, Tensor]) -> Tensor:
    """(rows, inputs) that a linear map gets when the model runs."""
    seen: list[Tensor] = []
    with tap_inputs(reader, seen.append):
        outputs_of(body, inputs)
    return seen[0].detach()


def attentions_of(body: Anatomy) -> Iterator[tuple[Block, Attention, bool]]:
    """Every attention, and whether it is a cross attention."""
    for block in body.blocks:
        yield block, block.attention, False
        if block.cross_attention is not None:
            yield block, block.cross_attention, True


def lengths_of(body: Anatomy, block: Block, cross: bool, inputs: dict[str, Tensor]) -> tuple[int, int]:
    """Number of positions of the queries and of the keys of an attention."""
    given = list(inputs.values())
    own = given[1] if len(body.stacks) > 1 and block.kind == body.stacks[-1].name else given[0]
    return own.shape[1], given[0].shape[1] if cross else own.shape[1]


def normalize(norm: Norm, x: Tensor) -> Tensor:
    """What a norm computes, from its declaration."""
    if norm.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    x = x * (x.square().mean(-1, keepdim=True) + norm.epsilon).rsqrt() * norm.read()
    return x if norm.bias is None else x + norm.bias.read()


@contextmanager
def replaced(*changes: tuple[Weight, Tensor]) -> Iterator[None]:
    """Within the block, weights hold other values."""
    kept = [weight.read().clone() for weight, _ in changes]
    for weight, values in changes:
        weight.write_(values)
    try:
        yield
    finally:
        for (weight, _), values in zip(changes, kept, strict=True):
            weight.write_(values)


def has_no_effect(body: Anatomy, weight: Weight, inputs: dict[str, Tensor], expected: Tensor) -> bool:
    """Whether the outputs are the same for other random values of a weight: it is a true invariance of the model."""
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with replaced((weight, weight.read() + noise)):
        return difference(outputs_of(body, inputs), expected) < EQUAL
