"""Warm-up, a long stable phase at the peak, then a short decay.

Source: "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies", arXiv:2404.06395,
Sec. 4.2 (the schedule); decay shapes from "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations",
arXiv:2405.18392, Sec. 3 (linear, 1-sqrt, cosine), and from MiniCPM (exponential).
Implements: factor(s) = (s + 1) / W in the warm-up, 1 until S - D, then m + (1 - m) f(u) with u = (s - (S - D)) / D and
    f = 1 - u, 1 - sqrt(u), (1 + cos(pi u)) / 2; exponential: m^u.
Deviations: warm-up counts from one, so that step 0 already learns at 1/W of the peak.
Use when: the length may change, or one run shall give models of several lengths: only the decay has to be repeated.
Cost: none.
Relations: `infinite-lr` adds a cool-down to a constant rate below the peak and forks its annealing; with that rate at
    the peak it is this schedule with the exponential decay. `warmup-cosine` serves one length only.
Limits: loss falls late, in the decay; comparisons before it mislead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, model_validator

from pomona.ground.config import MethodConfig
from pomona.schedules.duration import Duration, check_fits, check_total, steps_of

DecayShape = Literal["linear", "1-sqrt", "cosine", "exponential"]


class WarmupStableDecayConfig(MethodConfig):
    """Warm up linearly, stay at the peak, then decay in the last part of the run."""

    method: Literal["warmup-stable-decay"] = "warmup-stable-decay"
    warmup: Duration = 0.05
    """Length of the linear warm-up: a whole number of steps, or a share of the run."""
    decay: Duration = 0.2
    """Length of the final decay: a whole number of steps, or a share of the run. The second source advises 10-20 %."""
    shape: DecayShape = "1-sqrt"
    """How the rate falls. `1-sqrt` won in the second source's comparison."""
    min_ratio: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the peak that is reached at the end of the run."""

    @model_validator(mode="after")
    def _exponential_needs_an_end(self) -> Self:
        if self.shape == "exponential" and self.min_ratio == 0.0:
            raise ValueError("an exponential decay never reaches 0: set min_ratio above 0, for example 0.1")
        return self

    def build(self, total_steps: int) -> Callable[[int], float]:
        """The schedule of a run of `total_steps` steps: step, from 0, to the share of the peak rate.

        Raises:
            ConfigError: warm-up and decay are longer than the run.
        """
        check_total(total_steps, self.method)
        warmup, decay = steps_of(self.warmup, total_steps), steps_of(self.decay, total_steps)
        check_fits(self.method, total_steps, warmup=warmup, decay=decay)
        return lambda step: warmup_stable_decay(
            step, warmup=warmup, decay=decay, total=total_steps, shape=self.shape, min_ratio=self.min_ratio
        )


def warmup_stable_decay(
    step: int, *, warmup: int, decay: int, total: int, shape: DecayShape, min_ratio: float
) -> float:
    """Share of the peak rate at `step`.

    Args:
        step: counted from 0; steps beyond `total` stay at `min_ratio`.
        warmup: steps of linear warm-up; 0 starts at the peak.
        decay: steps of the decay; 0 keeps the peak to the end.
        total: step at which the decay reaches `min_ratio`; the last step of the run, `total - 1`, is just above it.
        shape: of the decay.
        min_ratio: in [0, 1]; above 0 for the exponential shape.
    Returns:
        A number in [0, 1].
    Example:
        >>> phases = dict(warmup=2, decay=2, total=6, shape="linear", min_ratio=0.0)
        >>> [warmup_stable_decay(s, **phases) for s in range(6)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]
    """
    if step < warmup:
        return (step + 1) / warmup
    start = total - decay
    if decay == 0 or step <= start:
        return 1.0
    progress = min((step - start) / decay, 1.0)
    if shape == "exponential":
        return float(min_ratio**progress)
    left = {
        "linear": 1.0 - progress,
        "1-sqrt": 1.0 - math.sqrt(progress),
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[shape]
    return min_ratio + (1.0 - min_ratio) * left
