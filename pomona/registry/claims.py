"""A claimed number against a measured one: are they comparable, and how far apart are they?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pomona.registry.schema import Claim

Outcome = Literal["match", "mismatch", "not testable"]
SHARES = ("accuracy", "f1", "precision", "recall", "exact_match", "matthews_correlation")
"""Metrics that lie within [0, 1], and are often written in percent."""


@dataclass(frozen=True)
class Measurement:
    """A number that was measured here.

    Attributes:
        dataset, split, task, metric: what it is about, in the words that claims use.
        outcomes: of each item; the value is their mean.
        weights: of each item; all 1 by default.
    """

    dataset: str
    task: str
    metric: str
    outcomes: Sequence[float]
    split: str | None = None
    weights: Sequence[float] = field(default=())

    @property
    def value(self) -> float:
        return float(np.average(self.outcomes, weights=self.weights or None))


@dataclass(frozen=True)
class Discrepancy:
    """What became of a claim.

    Attributes:
        outcome: `match`: the claim lies within what resampling the items allows; `mismatch`: it does not;
            `not testable`: nothing comparable was measured.
        measured: NaN where nothing was.
        low, high: interval of claimed minus measured.
    """

    claim: Claim
    outcome: Outcome
    measured: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")

    @property
    def overstated(self) -> bool:
        """Whether the model is worse than claimed; lower is better for what is no share."""
        worse = self.low > 0 if normal(self.claim.metric) in SHARES else self.high < 0
        return self.outcome == "mismatch" and worse


def comparable(claim: Claim, measurement: Measurement) -> bool:
    """Whether two numbers are about the same: dataset, task, metric and split. A claim that does not say its dataset,
    task or split is about nothing that can be known."""
    pairs = [
        (claim.dataset, measurement.dataset),
        (claim.task, measurement.task),
        (claim.metric, measurement.metric),
        (claim.split, measurement.split),
    ]
    return all(one is not None and other is not None and normal(one) == normal(other) for one, other in pairs)


def check_claim(
    claim: Claim,
    measurements: Sequence[Measurement],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Discrepancy:
    """Compare a claim with what was measured of the same: claimed minus measured, with a percentile interval over
    resamples of the items.

    Args:
        confidence: of the interval, in (0, 1).
    """
    for measurement in measurements:
        if comparable(claim, measurement):
            claimed = claim.value / 100 if normal(claim.metric) in SHARES and claim.value > 1 else claim.value
            low, high = interval(measurement, confidence, resamples, seed)
            outcome: Outcome = "match" if low <= claimed <= high else "mismatch"
            return Discrepancy(claim, outcome, measurement.value, claimed - high, claimed - low)
    return Discrepancy(claim, "not testable")


def interval(measurement: Measurement, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """Percentiles of the mean over resamples of the items."""
    values = np.asarray(measurement.outcomes, dtype=np.float64)
    weights = np.asarray(measurement.weights or np.ones(len(values)), dtype=np.float64)
    draw = np.random.default_rng(seed)
    means = np.empty(resamples)
    for place in range(resamples):
        chosen = draw.integers(len(values), size=len(values))
        means[place] = values[chosen] @ weights[chosen] / weights[chosen].sum()
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def normal(word: str) -> str:
    """The form in which names of datasets and metrics are compared."""
    return word.strip().lower().replace("-", "_").replace(" ", "_")
