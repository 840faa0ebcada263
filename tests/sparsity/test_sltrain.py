"""SLTrain: the lean pass against plain autograd, what is kept for the backward pass, merging, places, counts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pomona import anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.lab import outputs_of
from pomona.anatomy.tiny import tiny_model
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.optimizers import AdamwConfig
from pomona.sparsity import SltrainConfig, sltrain_
from pomona.sparsity.sltrain import PLACE, Factors, SparsePlusLowRank, dense_map
from tests.sparsity.models import Squares, batches_of

SMALL = SltrainConfig(rank=3, alpha=6.0, delta=0.1)


def factors_of(model: Any) -> list[Factors]:
    return list(getattr(model, PLACE).values())


def tensors(seed: int, outputs: int = 5, inputs: int = 7, rank: int = 2) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()

    places = torch.randperm(outputs * inputs, generator=draw)[:9].sort().values
    return [drawn(2, 3, inputs), drawn(outputs, rank), drawn(rank, inputs), drawn(9), places]


@pytest.mark.parametrize("seed", range(5))
def test_lean_and_plain_agree(seed: int) -> None:
    """Catches a wrong term in the hand-written backward pass: against autograd over loops' definition of the map."""
    results = []
    for lean in (True, False):
        x, up, down, values, places = tensors(seed)
        if lean:
            y = SparsePlusLowRank.apply(x, up, down, values, places)
        else:
            weight = up @ down
            flat = [weight.flatten()[at] for at in range(weight.numel())]
            for value, at in zip(values, places.tolist(), strict=True):
                flat[at] = flat[at] + value
            y = functional.linear(x, torch.stack(flat).view_as(weight))
        (y.square().sum() + y[0, 0, 0]).backward()
        results.append([y.detach(), *(tensor.grad for tensor in (x, up, down, values))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_gradients_by_differences() -> None:
    """Catches a gradient that agrees with a wrong forward pass."""
    x, up, down, values, places = tensors(0)
    assert torch.autograd.gradcheck(lambda *given: SparsePlusLowRank.apply(*given, places), (x, up, down, values))


def test_no_map_is_kept_for_the_backward_pass() -> None:
    """Catches the memory of dense training: a tensor of a map's size that waits for the backward pass."""
    model = tiny_model("gpt2").train()
    body = anatomy.of(model)
    (inner,) = {weight.shape for weight in body.weights() if weight.role == "ffn.up"}
    sltrain_(model, SMALL)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tuple(tensor.shape)) or tensor, lambda t: t
    ):
        Squares()(anatomy.of(model), batches_of(body)[0]).total.backward()
    dense = [shape for shape in kept if sorted(shape) == sorted(inner)]
    assert kept and not dense


@pytest.mark.parametrize("family", ["llama-grouped-untied", "gpt2", "phi3", "bert"])
def test_merging_is_exact(family: str) -> None:
    """Catches a scale on the sparse part, a transposed map, a bias that is lost: merged and factored answers agree."""
    model = tiny_model(family).double()
    started = sltrain_(model, SMALL)
    with torch.no_grad():
        for factors in factors_of(model):
            factors.up.normal_()
    body = anatomy.of(model)
    inputs = example_inputs(body)
    before = outputs_of(body, inputs)
    parts = [
        (factors.up @ factors.down * factors.scale, factors.places, factors.values) for factors in factors_of(model)
    ]
    weights = list(started.layers)
    started.finish_()
    torch.testing.assert_close(outputs_of(anatomy.of(model), inputs), before, rtol=1e-10, atol=1e-10)
    for layer, (product, places, values) in zip(weights, parts, strict=True):
        rest = (layer.weight if isinstance(layer, nn.Linear) else layer.weight.T) - product
        support = torch.zeros(rest.numel(), dtype=torch.bool)
        support[places.long()] = True
        assert float(rest.flatten()[~support].detach().abs().max()) < 1e-12
        torch.testing.assert_close(rest.flatten()[support], values, rtol=1e-9, atol=1e-9)


def test_the_start() -> None:
    """Catches a layer that is dead at the start (B and v both zero), other ranges, and maps that are alike."""
    model = tiny_model("llama-grouped-untied")
    started = sltrain_(model, SMALL)
    for layer in started.layers:
        factors = vars(layer)["factors"]
        outputs, inputs = layer.weight.shape
        assert not factors.up.any() and float(factors.values.detach().abs().max()) <= 1 / math.sqrt(inputs)
        assert 0.5 / math.sqrt(inputs) < float(factors.down.detach().abs().max()) <= 1 / math.sqrt(inputs)
        expected = torch.zeros(outputs * inputs)
        expected[factors.places.long()] = factors.values.detach()
        assert torch.equal(factors.dense().detach().flatten(), expected)
        assert factors.scale == 2.0
    first, second = factors_of(model)[:2]
    assert not torch.equal(first.places[:5], second.places[:5])


def test_counts_and_places_in_training() -> None:
    """Catches places that move, are drawn twice or unsorted, and another number of trained values."""
    model = tiny_model("gpt2").train()
    sltrain_(model, SMALL)
    body = anatomy.of(model)
    found = factors_of(model)
    before = [factors.places.clone() for factors in found]
    shapes = [(len(factors.up), factors.down.shape[1]) for factors in found]
    for factors, (outputs, inputs) in zip(found, shapes, strict=True):
        count = math.floor(0.1 * outputs * inputs)
        assert len(factors.places) == len(factors.places.unique()) == len(factors.values) == count
        assert torch.equal(factors.places, factors.places.sort().values)
        assert sum(parameter.numel() for parameter in factors.parameters()) == (outputs + inputs) * 3 + count
    optimizer = AdamwConfig(learning_rate=0.05, weight_decay=0.0).build(body, total_steps=20)
    assert {id(factors.up) for factors in found} <= {id(p) for p in optimizer.param_groups[0]["params"]}
    for step in range(20):
        Squares()(body, batches_of(body, count=4)[step % 4]).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(factors.places, places) for factors, places in zip(found, before, strict=True))
    for factors in found:
        product = factors.up.detach().double() @ factors.down.detach().double()
        assert (
            int(torch.linalg.matrix_rank(product))
            <= 3
            < int(torch.linalg.matrix_rank(factors.dense().detach().double()))
        )


def test_no_free_entries_is_low_rank() -> None:
    """Catches entries that are there at delta 0."""
    factors = Factors((6, 8), SMALL.model_copy(update={"delta": 0.0}), torch.Generator().manual_seed(0))
    with torch.no_grad():
        factors.up.normal_()
    torch.testing.assert_close(factors.dense(), 2.0 * factors.up @ factors.down)
    assert dense_map(factors.up, factors.down, factors.values, factors.places).shape == (6, 8)


def test_low_rank_alone_can_learn() -> None:
    """Catches maps of zeros everywhere, through which no gradient comes: a baseline that cannot learn."""
    model = tiny_model("llama-grouped-untied").train()
    sltrain_(model, SMALL.model_copy(update={"delta": 0.0}))
    body = anatomy.of(model)
    Squares()(body, batches_of(body)[0]).total.backward()
    for factors in factors_of(model):
        assert factors.up.grad is not None and factors.up.grad.norm() > 0
        spread = factors.dense().detach().std() * math.sqrt(3 * factors.down.shape[1])
        assert 0.5 < float(spread) < 2.0


def test_under_autocast() -> None:
    """Catches formats that do not meet in the backward pass of mixed precision, and gradients in the small format."""
    model = tiny_model("llama-grouped-untied").train()
    sltrain_(model, SMALL)
    body = anatomy.of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = Squares()(body, batches_of(body)[0]).total
    loss.backward()
    assert all(
        factors.values.grad is not None and factors.values.grad.dtype == torch.float32 for factors in factors_of(model)
    )


def test_refusals() -> None:
    """Catches a rank that saves nothing without a word, and experts whose maps are one parameter."""
    with pytest.raises(ConfigError, match="choose at most"):
        sltrain_(tiny_model("gpt2"), SltrainConfig(rank=4000))
    with pytest.raises(UnsupportedModel, match="with a matrix of its own"):
        sltrain_(tiny_model("mixtral"), SMALL)
