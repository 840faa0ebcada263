"""What was measured: every arm at every seed, and what a statistician would say about two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Trial:
    """One arm at one seed.

    Attributes:
        arm: its name. seed: of everything random in it.
        metrics: by name.
        flops, seconds: what making it cost: training and calibration, without evaluation and sweeps. What all arms
            share is not in it.
        shared_flops: cost of what all arms have in common at this seed.
        sweep_flops: cost of choosing hyperparameters.
        curve: (FLOPs, seconds, held-out nats per token) along the way, where something was trained.
        made: hash of every stage, by label.
    """

    arm: str
    seed: int
    metrics: Mapping[str, float]
    flops: float = 0.0
    seconds: float = 0.0
    shared_flops: float = 0.0
    sweep_flops: float = 0.0
    curve: Sequence[tuple[float, float, float]] = ()
    made: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Paired:
    """Differences between two arms, seed by seed.

    Attributes:
        differences: one arm minus the other, in order of seeds.
        mean, spread: of the differences; the spread is the sample standard deviation, NaN for one seed.
        low, high: the confidence interval of the mean difference by Student's t; NaN for one seed.
        p: two-sided, of the paired t-test; NaN for one seed.
    """

    differences: tuple[float, ...]
    mean: float
    spread: float
    low: float
    high: float
    p: float

    @property
    def n(self) -> int:
        return len(self.differences)


def paired(ones: Sequence[float], others: Sequence[float], *, confidence: float = 0.95) -> Paired:
    """Compare two arms that were run with the same seeds.

    Args:
        ones, others: a metric of both, in the same order of seeds.
        confidence: of the interval, in (0, 1).

    Example:
        >>> result = paired([1.0, 2.0, 4.0], [0.0, 0.0, 0.0])
        >>> round(result.mean, 3), round(result.p, 3)
        (2.333, 0.118)
    """
    from scipy import stats

    differences = tuple(one - other for one, other in zip(ones, others, strict=True))
    n, mean = len(differences), fmean(differences)
    if n < 2 or math.isnan(mean):
        return Paired(differences, mean, math.nan, math.nan, math.nan, math.nan)
    spread = stdev(differences)
    error = spread / math.sqrt(n)
    reach = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Paired(differences, mean, spread, mean - reach, mean + reach, p)


@dataclass(frozen=True)
class Table:
    """All trials of an experiment."""

    trials: tuple[Trial, ...]

    @property
    def arms(self) -> list[str]:
        """Names, in the order of the card."""
        return list(dict.fromkeys(trial.arm for trial in self.trials))

    @property
    def seeds(self) -> list[int]:
        """Seeds that every arm has been run with."""
        per_arm = [{trial.seed for trial in self.trials if trial.arm == arm} for arm in self.arms]
        return sorted(set.intersection(*per_arm)) if per_arm else []

    def of(self, arm: str) -> list[Trial]:
        """The trials of an arm, in order of seeds."""
        found = sorted((trial for trial in self.trials if trial.arm == arm), key=lambda trial: trial.seed)
        if not found:
            raise KeyError(f"no arm is called {arm!r}; there are {', '.join(self.arms)}")
        return found

    def values(self, arm: str, metric: str) -> list[float]:
        """A metric of an arm, in order of seeds; NaN where an arm does not have it."""
        return [trial.metrics.get(metric, math.nan) for trial in self.of(arm)]

    def mean(self, arm: str, metric: str) -> float:
        return fmean(self.values(arm, metric))

    def spread(self, arm: str, metric: str) -> float:
        """The sample standard deviation over seeds; NaN for one, and where the arm does not have the metric."""
        values = self.values(arm, metric)
        return stdev(values) if len(values) > 1 and not any(map(math.isnan, values)) else math.nan

    def shown(self, arm: str, metric: str) -> str:
        """Mean ± standard deviation, `1.622 ± 0.0041`; the mean alone for one seed, nothing where it is NaN."""
        mean, spread = self.mean(arm, metric), self.spread(arm, metric)
        deviation = "" if math.isnan(spread) else f" ± {spread:.2g}"
        return "" if math.isnan(mean) else f"{mean:.4g}{deviation}"

    def pooled_spread(self, arm: str, other: str, metric: str) -> float:
        """Root mean square of the two arms' standard deviations."""
        return math.sqrt((self.spread(arm, metric) ** 2 + self.spread(other, metric) ** 2) / 2)

    def against(self, arm: str, other: str, metric: str, *, confidence: float = 0.95) -> Paired:
        """One arm minus another, seed by seed."""
        return paired(self.values(arm, metric), self.values(other, metric), confidence=confidence)

    def ratios(self, arm: str, other: str, metric: str) -> list[float]:
        """One arm over another, seed by seed; NaN where the other is 0."""
        pairs = zip(self.values(arm, metric), self.values(other, metric), strict=True)
        return [one / under if under else math.nan for one, under in pairs]

    def share_to_reach(self, arm: str, other: str) -> list[float]:
        """Seed by seed, the share of its own cost after which an arm is where the other ends; inf where it never is.

        Both are read off the held-out losses along the way, between two measurements along a straight line.
        """
        pairs = zip(self.of(arm), self.of(other), strict=True)
        return [first_at(one.curve, end.curve[-1][2]) / one.curve[-1][0] for one, end in pairs]

    def flops(self, arm: str) -> float:
        """Mean cost of an arm beyond what all share."""
        return fmean(trial.flops for trial in self.of(arm))

    def unequal(self, tolerance: float = 0.05) -> str:
        """What speaks against equal compute: the widest ratio of the arms' costs, or nothing."""
        costs = {arm: self.flops(arm) for arm in self.arms}
        low, high = min(costs, key=lambda arm: costs[arm]), max(costs, key=lambda arm: costs[arm])
        if costs[high] <= (1 + tolerance) * costs[low]:
            return ""
        return f"{high} cost {costs[high]:.3g} FLOPs, {low} {costs[low]:.3g}"


def first_at(curve: Sequence[tuple[float, float, float]], loss: float) -> float:
    """FLOPs at which a curve first is at `loss` or below; inf where it never is.

    Example:
        >>> first_at([(1.0, 0.0, 4.0), (2.0, 0.0, 3.0)], 3.5)
        1.5
    """
    before: tuple[float, float] | None = None
    for flops, _, value in curve:
        if value <= loss:
            if before is None or before[1] == value:
                return flops
            share = (before[1] - loss) / (before[1] - value)
            return before[0] + share * (flops - before[0])
        before = (flops, value)
    return math.inf


def trial_from_dict(values: Mapping[str, Any]) -> Trial:
    """A trial from plain values (`dataclasses.asdict`)."""
    curve = tuple((float(flops), float(seconds), float(value)) for flops, seconds, value in values["curve"])
    return Trial(**{**values, "curve": curve})
