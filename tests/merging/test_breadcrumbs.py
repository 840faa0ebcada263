"""Breadcrumbs: exactly which entries stay, for any size of tensor, and the expert itself where all do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pomona.merging import merge
from pomona.merging.breadcrumbs import breadcrumbs
from pomona.merging.deltas import breadcrumbs_mask
from tests.merging.models import base_of, equal, expert_of, state_of, tensors


def test_by_hand() -> None:
    """Catches the largest being kept, the smallest being kept, and a mean over kept experts only."""
    base = torch.zeros(10)
    one = torch.tensor([10.0, -9.0, 8.0, -7.0, 6.0, -5.0, 4.0, -3.0, 2.0, -1.0])
    merged = breadcrumbs(base, [one, -one.flip(0)], [1, 1], density=0.5, outliers=0.2)
    # of the first 8 -7 6 -5 4 stay, of the second -4 5 -6 7 -8, one place to the right
    assert merged.tolist() == [0.0, 0.0, 4.0, -5.5, 5.5, -5.5, 5.5, -4.0, 0.0, 0.0]


@settings(deadline=None)
@given(st.integers(1, 400), st.floats(0.01, 1.0), st.floats(0.0, 0.5), st.integers(0, 5))
def test_the_counts_are_exact(size: int, density: float, outliers: float, seed: int) -> None:
    """Keeps round(density n) entries (one at least, as many as there are beside the outliers at most) and none of the
    floor(outliers n) largest. Catches slices that end at minus zero, which keep nothing where outliers * n is below 1,
    and ties that are all kept or all dropped."""
    outliers = min(outliers, 1 - density)
    magnitude = torch.randint(0, 40, (size,), generator=torch.Generator().manual_seed(seed)).float()
    mask = breadcrumbs_mask(magnitude, density, outliers)
    above = int(outliers * size + 1e-9)
    assert int(mask.sum()) == min(max(1, round(density * size)), size - above) > 0
    order = magnitude.argsort(descending=True, stable=True)
    assert not bool(mask[order[:above]].any())
    kept = int(mask.sum())
    assert bool(mask[order[above : above + kept]].all())


@pytest.mark.parametrize("size", [1, 2, 9, 50, 99])
def test_small_tensors_are_not_emptied(size: int) -> None:
    """The paper's shares on tensors of which one per cent is no entry at all."""
    mask = breadcrumbs_mask(torch.arange(size).float(), density=0.9, outliers=0.01)
    assert int(mask.sum()) == max(1, round(0.9 * size)) and bool(mask[-1])


@settings(deadline=None)
@given(tensors(2))
def test_one_expert_in_full_is_that_expert(pair: list[Tensor]) -> None:
    """density 1, outliers 0, one expert with weight 1: the expert, bit for bit."""
    assert torch.equal(breadcrumbs(pair[0], pair[1:], [1.0], 1.0, 0.0).float(), pair[1])


def test_whole_models() -> None:
    """The same for every tensor of a model, and for several experts that are equal."""
    base = base_of("mixtral")
    expert = expert_of(base, 0)
    for count in (1, 3):
        merged = merge(base, [expert] * count, "breadcrumbs", density=1.0, outliers=0.0)
        assert equal(state_of(merged), state_of(expert))


def test_with_everything_kept_it_is_linear() -> None:
    """Catches weights that are not divided by their sum."""
    base = {"w": torch.tensor([1.0, 2.0])}
    experts = [{"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([-1.0, 0.5])}]
    settings = {"weights": (0.6, 0.2)}
    merged = merge(base, experts, "breadcrumbs", density=1.0, outliers=0.0, **settings)
    torch.testing.assert_close(merged["w"], merge(base, experts, "linear", **settings)["w"])
