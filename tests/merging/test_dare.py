"""Dropping and rescaling: how much is dropped, what is left, and that masks belong to experts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pomona.merging import merge
from pomona.merging.dare import drop_and_rescale
from tests.merging.models import base_of, equal, expert_of, state_of, tensors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_drop_rate_and_the_expectation(rate: float) -> None:
    """Catches the rate being the kept share, and kept entries that are not divided by 1 - p: over 10^5 entries the
    share of zeros is p and the mean stays, both within four standard deviations."""
    count = 100_000
    thinned = drop_and_rescale(torch.ones(count), rate, generator())
    assert set(thinned.unique().tolist()) == {0.0, float(torch.ones(1) / (1 - rate))}
    spread = (rate * (1 - rate) / count) ** 0.5
    assert float((thinned == 0).double().mean()) == pytest.approx(rate, abs=4 * spread)
    assert float(thinned.double().mean()) == pytest.approx(1.0, abs=4 * spread / (1 - rate))


@settings(deadline=None)
@given(tensors(2), st.sampled_from(["mean", "ties"]), st.integers(1, 4))
def test_nothing_dropped_changes_nothing(pair: list[Tensor], combine: str, count: int) -> None:
    """With rate 0, equal experts give themselves bit for bit."""
    base, expert = ({"w": row} for row in pair)
    assert equal(merge(base, [expert] * count, "dare", drop_rate=0.0, combine=combine), expert)


def test_without_dropping_it_is_what_it_is_combined_with() -> None:
    """Catches combinations that are mixed up."""
    base = state_of(base_of("gpt2"))
    experts = [state_of(expert_of(base_of("gpt2"), seed)) for seed in (0, 1)]
    for combine, method, parameters in (
        ("mean", "task-arithmetic", {"scale": 0.5}),
        ("sum", "task-arithmetic", {"scale": 1.0}),
        ("ties", "ties", {"density": 1.0}),
    ):
        merged = merge(base, experts, "dare", drop_rate=0.0, combine=combine)
        assert equal(merged, merge(base, experts, method, **parameters)), combine


def test_masks_differ_between_experts_tensors_and_seeds() -> None:
    """Catches one mask for all: then the experts' changes would fall on the same entries, and equal experts would be no
    better than one. Two equal experts with different masks change more entries than one alone."""
    base = {"a": torch.zeros(4000), "b": torch.zeros(4000)}
    expert = {"a": torch.ones(4000), "b": torch.ones(4000)}
    one = merge(base, [expert], "dare", drop_rate=0.5)
    two = merge(base, [expert, dict(expert)], "dare", drop_rate=0.5)
    assert not torch.equal(one["a"], one["b"])
    assert float((one["a"] != 0).double().mean()) == pytest.approx(0.5, abs=0.05)
    assert float((two["a"] != 0).double().mean()) == pytest.approx(0.75, abs=0.05)
    assert not equal(one, merge(base, [expert], "dare", drop_rate=0.5, seed=1))
    assert equal(one, merge(base, [expert], "dare", drop_rate=0.5))
