"""What experiments are made with: a copy of the model with telling weights, inputs, and ways to interfere."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pomona.anatomy.block import Attention, Block
from pomona.anatomy.body import Anatomy, bound
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
    body = bound(enlarged(model, seed), shape)
    if body.logits_added is not None:
        body.logits_added.copy_(torch.randn(body.logits_added.shape, generator=torch.Generator().manual_seed(8)))
    if "experts" in body.capabilities:
        body.model.set_experts_implementation("eager")  # the grouped products do not know float64
    return body


def enlarged(model: Any, seed: int = 0) -> Any:
    """The copy itself."""
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
    return copied


def answers_of(body: Anatomy, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The model's own logits, or what it makes of several towers, or its hidden states when it has no head."""
    output = body.model(**inputs)
    logits = [value for name, value in output.items() if "logits" in name or name in ("image_embeds", "text_embeds")]
    return logits or [next(value for name, value in output.items() if name != "loss")]


@torch.no_grad()
def outputs_of(body: Anatomy, inputs: dict[str, Tensor]) -> Tensor:
    """What the model answers; several tensors are put in a row."""
    found = answers_of(body, inputs)
    return found[0] if len(found) == 1 else torch.cat([value.flatten() for value in found])


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


def lengths_of(body: Anatomy, attention: Attention, inputs: dict[str, Tensor]) -> tuple[int, int]:
    """Number of positions of the queries and of the keys of an attention."""
    batch = next(iter(inputs.values())).shape[0]
    queries: list[Tensor] = []
    keys: list[Tensor] = []
    with tap_inputs(attention.query, queries.append), tap_inputs(attention.key, keys.append):
        outputs_of(body, inputs)
    return len(queries[0]) // batch, len(keys[0]) // batch


def at_tokens(
    change: Callable[[Tensor], Tensor], later: Callable[[Tensor], Tensor] = lambda rows: rows
) -> Callable[[Tensor], Tensor]:
    """`change` at the first call, `later` at those that follow: some maps project relative positions after tokens."""
    calls = 0

    def changed(rows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return change(rows) if calls == 1 else later(rows)

    return changed


@contextmanager
def freed(body: Anatomy) -> Iterator[None]:
    """Within the block, nothing stands against permuting a space: modules give zeros, constants are zero."""
    declared = body.fast
    with ExitStack() as stack:
        for fast in declared:
            parent, _, attribute = fast.path.rpartition(".")
            owner = body.base.get_submodule(parent)
            held = getattr(owner, attribute)
            if isinstance(held, nn.Module):
                stack.callback(held.register_forward_hook(lambda module, args, output: output * 0).remove)
            else:
                stack.callback(setattr, owner, attribute, held)
                setattr(owner, attribute, held * 0)
        body.fast = []
        try:
            yield
        finally:
            body.fast = declared


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


def has_no_effect(body: Anatomy, weight: Weight, inputs: dict[str, Tensor]) -> bool:
    """Whether the outputs are the same for other random values of a weight: it is a true invariance of the model."""
    expected = outputs_of(body, inputs)
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with replaced((weight, weight.read() + noise)):
        return difference(outputs_of(body, inputs), expected) < EQUAL
