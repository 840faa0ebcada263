"""Shares of several sources in a batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona.data import Mixture, Split
from pomona.ground.errors import ConfigError

SPLIT = Split.of([range(100)], name="docs")


@settings(max_examples=80, deadline=None)
@given(
    weights=st.lists(st.floats(0.001, 10), min_size=1, max_size=5),
    lanes=st.integers(1, 64),
    first=st.integers(0, 10**9),
)
def test_counts_are_whole_batches_and_within_one_of_the_share(weights: list[float], lanes: int, first: int) -> None:
    """Catches rounding that loses sequences, gives negative counts or favours a source in the long run."""
    mixture = Mixture([(SPLIT, weight) for weight in weights])
    steps = np.arange(first, first + 500)
    counts, shares = mixture.counts(steps, steps, lanes), mixture.shares(steps) * lanes
    assert (counts >= 0).all() and (counts.sum(axis=1) == lanes).all()
    assert np.abs(counts - shares).max() < 1 + 1e-6
    assert np.abs((counts - shares).sum(axis=0)).max() < 12


def test_weights_follow_straight_lines_between_their_points() -> None:
    """Catches steps that are taken for fractions, or weights that jump."""
    mixture = Mixture([(SPLIT, 1.0), (SPLIT, ((100, 0.0), (200, 1.0)))])
    shares = mixture.shares(np.array([0, 100, 150, 200, 900]))[:, 1]
    assert shares == pytest.approx([0, 0, 1 / 3, 1 / 2, 1 / 2])
    assert mixture.largest_shares() == pytest.approx([1, 0.5])


@pytest.mark.parametrize("weight", [-1.0, ((5, 1.0), (5, 2.0)), ((0, float("nan")),)])
def test_wrong_weights_are_refused(weight: float | tuple[tuple[int, float], ...]) -> None:
    """Catches negative, unordered and non-finite weights."""
    with pytest.raises(ConfigError, match="weights of 'docs' are not valid"):
        Mixture([(SPLIT, 1.0), (SPLIT, weight)])


def test_a_step_without_any_weight_is_refused() -> None:
    """Catches a division by zero in the middle of training."""
    with pytest.raises(ConfigError, match=r"no source(.|\n)*step 10"):
        Mixture([(SPLIT, ((0, 1.0), (10, 0.0)))])
    with pytest.raises(ConfigError, match="at least one source"):
        Mixture([])
