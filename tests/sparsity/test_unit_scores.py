"""Scores of units and blocks: against slow references, and where they must be zero."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from pomona.anatomy import Anatomy, Space, replace_inputs, replace_outputs
from pomona.sparsity import feature_spaces, head_spaces, skipped
from pomona.sparsity.block_scores import block_magnitude_scores, block_taylor_scores, influence_scores
from pomona.sparsity.calibration import Calibration
from pomona.sparsity.unit_scores import magnitude_scores, taylor_scores
from pomona.sparsity.units import readers
from tests.sparsity.models import Squares, batches_of, outputs, telling


def gate_gradient(body: Anatomy, space: Space, batch: dict[str, Tensor]) -> Tensor:
    """dL/dg of a gate g = 1 on every unit of a space, by automatic differentiation through the gates themselves."""
    gates = torch.ones(space.size, dtype=torch.float64, requires_grad=True)
    (reader,) = readers(body, space)
    with replace_inputs(reader.weight, lambda values: values * gates[reader.units]):
        loss = Squares()(body, batch).total
    return torch.autograd.grad(loss, gates)[0]


@pytest.mark.parametrize("family", ["llama-grouped-untied", "gpt2"])
def test_taylor_is_the_gradient_of_a_gate(family: str) -> None:
    """Catches units read at wrong inputs, gradients summed over sequences before the absolute value, and a score that
    depends on how sequences are divided into batches."""
    body = telling(family)
    spaces = [*head_spaces(body), *feature_spaces(body)]
    (batch,) = batches_of(body, count=1, size=4)
    scores = taylor_scores(Calibration(body, [batch], Squares(), "test"), spaces)
    alone = [{name: values[[row]] for name, values in batch.items()} for row in range(4)]
    for space in spaces:
        expected = sum(gate_gradient(body, space, one).abs() for one in alone)
        assert torch.allclose(scores[space], torch.as_tensor(expected), rtol=1e-8)
    again = taylor_scores(Calibration(body, alone, Squares(), "test"), spaces)
    assert all(torch.allclose(scores[space], again[space], rtol=1e-8) for space in spaces)


def test_taylor_of_experts_adds_up_to_their_gates() -> None:
    """Catches an expert whose tokens are scored at another expert's features: with one token, the gates' gradient."""
    body = telling("mixtral")
    (batch,) = batches_of(body, count=1, size=1)
    batch = {name: values[:, :1] for name, values in batch.items()}
    space = body.blocks[0].ffn.features
    scores = taylor_scores(Calibration(body, [batch], Squares(), "test"), [space])[space]
    gates = torch.ones(space.size, dtype=torch.float64, requires_grad=True)
    ffn, width = body.blocks[0].ffn, body.blocks[0].ffn.width
    assert int((scores.view(-1, width).sum(1) > 0).sum()) == ffn.active

    def gated(index: int, values: Tensor) -> Tensor:
        return values * gates[index * width : (index + 1) * width]

    for index in range(ffn.num_experts):  # taps at different experts do not meet
        with replace_inputs(ffn.expert(index).down, partial(gated, index)):
            gradient = torch.autograd.grad(Squares()(body, batch).total, gates, allow_unused=True)[0]
        own = slice(index * width, (index + 1) * width)
        expected = torch.zeros(width, dtype=torch.float64) if gradient is None else gradient[own].abs()
        assert torch.allclose(scores[own], expected, rtol=1e-8)


def test_magnitude_by_hand() -> None:
    """Catches a weight of the unit that is left out, such as its bias, and sums where a mean is due."""
    body = telling("gpt2")
    block = body.blocks[0]
    up, down = block.ffn.up, block.ffn.down
    assert up.bias is not None
    scores = magnitude_scores(body, [block.ffn.features])[block.ffn.features]
    values = torch.cat([up.read()[3], up.bias.read()[3:4], down.read()[:, 3]])
    assert torch.allclose(scores[3], values.square().mean().sqrt())
    heads = magnitude_scores(body, [block.attention.heads])[block.attention.heads]
    size = block.attention.head_dim.size
    own = slice(size, 2 * size)
    parts = [weight.read()[own].flatten() for weight in block.attention.weights()[:3]]
    parts += [weight.bias.read()[own] for weight in block.attention.weights()[:3] if weight.bias is not None]
    parts.append(block.attention.output.read()[:, own].flatten())
    assert torch.allclose(heads[1], torch.cat(parts).square().mean().sqrt())


def test_a_block_that_does_nothing_matters_nothing() -> None:
    """Catches scores of blocks that are shifted by one, or that compare other places of the stream."""
    body = telling("llama-grouped-untied")
    for weight in body.blocks[1].writers():
        weight.write_(torch.zeros(weight.shape))
    data = Calibration(body, batches_of(body), Squares(), "test")
    influence, taylor = influence_scores(data, body.blocks), block_taylor_scores(data, body.blocks)
    assert abs(float(influence[1])) < 1e-12 and float(taylor[1]) == 0.0
    assert float(influence[[0, 2]].min()) > 1e-3 and float(taylor[[0, 2]].min()) > 1e-3


def test_influence_by_hand() -> None:
    """Catches cosines over the wrong axis: a turn by 60 degrees at every token gives 1/2, a change of length 0."""
    body = telling("llama-grouped-untied")
    size = body.hidden_size
    turn = torch.eye(size, dtype=torch.float64)
    half, root = 0.5, 0.75**0.5
    for first in range(0, size, 2):
        turn[first : first + 2, first : first + 2] = torch.tensor([[half, -root], [root, half]])
    data = Calibration(body, batches_of(body), Squares(), "test")
    first, second, third = body.blocks
    turned, grown = (
        replace_outputs(second, lambda hidden: hidden @ turn),
        replace_outputs(third, lambda hidden: 3 * hidden),
    )
    with skipped([first, second, third]), turned, grown:
        scores = influence_scores(data, body.blocks)
    assert torch.allclose(scores, torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64), atol=1e-9)


def test_taylor_of_a_block_is_the_gradient_of_its_gate() -> None:
    """Catches the gradient taken before the block, or without what the block adds."""
    body = telling("gpt2")
    (batch,) = batches_of(body, count=1, size=1)
    scores = block_taylor_scores(Calibration(body, [batch], Squares(), "test"), body.blocks)
    for place, block in enumerate(body.blocks):
        gate = torch.ones((), dtype=torch.float64, requires_grad=True)
        entered: list[Tensor] = []

        def enters(hidden: Tensor, entered: list[Tensor] = entered) -> Tensor:
            entered.append(hidden)
            return hidden

        def gated(hidden: Tensor, gate: Tensor = gate, entered: list[Tensor] = entered) -> Tensor:
            return entered[-1] + gate * (hidden - entered[-1])

        with replace_inputs(block, enters), replace_outputs(block, gated):
            loss = Squares()(body, batch).total
        assert torch.allclose(scores[place], torch.autograd.grad(loss, gate)[0].abs(), rtol=1e-8)


def test_magnitude_of_blocks_by_hand() -> None:
    """Catches matrices that weigh by their number instead of their size."""
    body = telling("gpt2")
    flat = torch.cat([weight.read().flatten() for weight in body.blocks[2].wholes()])
    assert torch.allclose(block_magnitude_scores(body.blocks)[2], flat.square().mean().sqrt())


def test_looking_changes_nothing() -> None:
    """Catches taps that stay, and weights or gradients that calibration leaves behind."""
    body = telling("mixtral")
    before = outputs(body)
    data = Calibration(body, batches_of(body), Squares(), "test")
    taylor_scores(data, [*head_spaces(body), *feature_spaces(body)])
    block_taylor_scores(data, body.blocks)
    assert torch.equal(outputs(body), before)
    assert all(parameter.grad is None for parameter in body.model.parameters())
