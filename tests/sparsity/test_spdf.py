"""SPDF: exact counts, zeros that stay, and a dense model that starts where the sparse one ended."""

from __future__ import annotations

import copy

import pytest
import torch

from pomona import anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.lab import outputs_of
from pomona.anatomy.tiny import tiny_model
from pomona.optimizers import AdamwConfig
from pomona.sparsity import SpdfConfig, fixed_zeros, random_mask, spdf_, zero_flops
from tests.sparsity.models import Squares, batches_of


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("shape", [(3, 5), (16, 8), (1, 7)])
def test_exact_counts(sparsity: float, shape: tuple[int, int]) -> None:
    """Catches counts that are only right on average, and places that are drawn twice."""
    for seed in range(5):
        assert int(random_mask(shape, sparsity, seed=seed).sum()) == round((1 - sparsity) * shape[0] * shape[1])


def test_places_are_uniform() -> None:
    """Catches rows, columns or corners that are preferred: counts over many seeds against the binomial spread."""
    counts = torch.stack([random_mask((6, 8), 0.75, seed=seed) for seed in range(2000)]).sum(0).float()
    assert (counts - 500).abs().max() < 4.5 * (2000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("family", ["llama-grouped-untied", "gpt2"])
def test_zeros_stay_under_adam_decay_and_clipping(family: str) -> None:
    """Catches zeros that momentum or decay revives, in any step; another share in one layer; a mask that moves."""
    model = tiny_model(family).train()
    started = SpdfConfig(sparsity=0.75).start_(model, 0)
    body = anatomy.of(model)
    maps = body.weights()
    masks = [weight.read() != 0 for weight in maps]
    for mask in masks:
        assert int(mask.sum()) == round(0.25 * mask.numel())
    optimizer = AdamwConfig(learning_rate=0.05, weight_decay=0.5).build(body, total_steps=6)
    with started.holding(body, optimizer):
        for batch in batches_of(body, count=6):
            Squares()(body, batch).total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            assert all(torch.equal(weight.read() != 0, mask) for weight, mask in zip(maps, masks, strict=True))
    for _, parameter in body.matrices():
        assert not bool(optimizer.state[parameter]["exp_avg"][parameter == 0].any())
    assert started.finish_(10)["zeros"] == sum(int((~mask).sum()) for mask in masks)


def test_dense_again() -> None:
    """Catches a model that changes when its zeros are freed, and zeros that learn nothing then."""
    model = tiny_model("llama-grouped-untied").train()
    spdf_(model)
    body = anatomy.of(model)
    copied = copy.deepcopy(model)
    inputs = example_inputs(body)
    assert torch.equal(outputs_of(anatomy.of(copied), inputs), outputs_of(body, inputs))
    Squares()(body, batches_of(body)[0]).total.backward()
    for _, parameter in body.matrices():
        assert parameter.grad is not None and bool((parameter.grad[parameter == 0] != 0).any())


def test_nothing_sparse_is_dense_training() -> None:
    """Catches a sparsity of 0 that changes anything."""
    losses = []
    for config in (None, SpdfConfig(sparsity=0.0)):
        model = tiny_model("llama-grouped-untied").train()
        started = config.start_(model, 0) if config else None
        body = anatomy.of(model)
        optimizer = AdamwConfig(learning_rate=0.01).build(body, total_steps=3)
        with started.holding(body, optimizer) if started else fixed_zeros(body, optimizer, ()):
            for batch in batches_of(body, count=3):
                loss = Squares()(body, batch).total
                losses.append(float(loss.detach()))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    assert losses[:3] == losses[3:]


def test_rescaling_keeps_the_variance() -> None:
    """Catches a factor that is left out or turned over."""
    plain, scaled = tiny_model("gpt2"), tiny_model("gpt2")
    spdf_(plain, SpdfConfig(sparsity=0.75))
    spdf_(scaled, SpdfConfig(sparsity=0.75, rescale=True))
    for one, other in zip(anatomy.of(plain).weights(), anatomy.of(scaled).weights(), strict=True):
        torch.testing.assert_close(other.read(), 2 * one.read())


def test_flops_that_multiply_by_zero() -> None:
    """Catches a factor other than 6 for each weight and token."""
    assert zero_flops(zeros=3 * 100, tokens=7) == 6 * 0.75 * 400 * 7
