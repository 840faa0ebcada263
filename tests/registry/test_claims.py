"""Claims: only like is compared with like, and the interval means what it says."""

from __future__ import annotations

import numpy as np
import pytest

from pomona.registry.claims import Measurement, check_claim
from pomona.registry.schema import Claim

CLAIM = Claim(task="text-classification", dataset="acme/reviews", split="test", metric="accuracy", value=0.9)


def measured(right: int, wrong: int, **changes: str) -> Measurement:
    about = {"dataset": "acme/reviews", "task": "text-classification", "metric": "accuracy", "split": "test", **changes}
    return Measurement(outcomes=[1.0] * right + [0.0] * wrong, **about)


@pytest.mark.parametrize("change", ["dataset", "task", "metric", "split"])
def test_only_like_with_like(change: str) -> None:
    """Catches a claim that is called false by a measurement of something else, or that says too little to be one."""
    assert check_claim(CLAIM, [measured(10, 90, **{change: "other"})]).outcome == "not testable"
    vague = CLAIM.model_copy(update={change: None}) if change != "metric" else CLAIM
    if vague is not CLAIM:
        assert check_claim(vague, [measured(10, 90)]).outcome == "not testable"
    assert check_claim(CLAIM, []).outcome == "not testable"


def test_by_hand() -> None:
    """Catches a wrong sign, percents taken for shares, and a model better than its claim called worse."""
    found = check_claim(CLAIM, [measured(800, 200)])
    assert found.outcome == "mismatch" and found.overstated and found.measured == 0.8
    assert found.low < 0.1 < found.high and found.low == pytest.approx(0.075, abs=0.01)
    assert check_claim(CLAIM.model_copy(update={"value": 80.0}), [measured(800, 200)]).outcome == "match"
    better = check_claim(CLAIM, [measured(970, 30)])
    assert better.outcome == "mismatch" and not better.overstated


def test_losses_are_better_when_lower() -> None:
    """Catches a claim of a lower loss that counts as modest, and texts that count alike whatever their length."""
    claim = CLAIM.model_copy(update={"metric": "nats_per_token", "value": 2.0})
    about = {"dataset": "acme/reviews", "task": "text-classification", "metric": "nats-per-token", "split": "test"}
    found = check_claim(claim, [Measurement(outcomes=[3.0, 4.0] * 50, weights=[3.0, 1.0] * 50, **about)])
    assert found.measured == pytest.approx(3.25) and found.overstated
    assert not check_claim(
        claim.model_copy(update={"value": 5.0}), [Measurement(outcomes=[3.0] * 9, **about)]
    ).overstated


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Catches an interval that is too narrow or too wide, on binomials."""
    draw = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        right = int(draw.binomial(300, 0.85))
        claim = CLAIM.model_copy(update={"value": 0.85})
        hits += check_claim(claim, [measured(right, 300 - right)], resamples=300, seed=trial).outcome == "match"
    assert 0.90 <= hits / 200 <= 0.99
