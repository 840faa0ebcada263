"""Warm-up, then a cosine to a fraction of the peak.

Source: "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, arXiv:1608.03983 (Eq. 5, without restarts);
linear warm-up as in "Accurate, Large Minibatch SGD", arXiv:1706.02677, Sec. 2.2.
Implements: factor(s) = (s + 1) / W for s < W; then m + (1 - m) (1 + cos(pi u)) / 2 with u = (s - W) / (S - W).
Deviations: warm-up counts from one, so that step 0 already learns at 1/W of the peak.
Use when: the number of steps is fixed beforehand. Cost: none.
Relations: `warmup-stable-decay` keeps the peak and decays late, so that one run serves several lengths;
    `infinite-lr` without a constant phase has the same cosine.
Limits: a run cannot be prolonged afterwards without warming up again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from pomona.ground.config import MethodConfig
from pomona.schedules.duration import Duration, check_fits, check_total, steps_of


class WarmupCosineConfig(MethodConfig):
    """Warm up linearly, then fall along a cosine until the end of the run."""

    method: Literal["warmup-cosine"] = "warmup-cosine"
    warmup: Duration = 0.05
    """Length of the linear warm-up: a whole number of steps, or a share of the run."""
    min_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the peak that is reached at the end of the run."""

    def build(self, total_steps: int) -> Callable[[int], float]:
        """The schedule of a run of `total_steps` steps: step, from 0, to the share of the peak rate.

        Raises:
            ConfigError: the warm-up is longer than the run.
        """
        check_total(total_steps, self.method)
        warmup = steps_of(self.warmup, total_steps)
        check_fits(self.method, total_steps, warmup=warmup)
        return lambda step: warmup_cosine(step, warmup=warmup, total=total_steps, min_ratio=self.min_ratio)


def warmup_cosine(step: int, *, warmup: int, total: int, min_ratio: float) -> float:
    """Share of the peak rate at `step`.

    Args:
        step: counted from 0; steps beyond `total` stay at `min_ratio`.
        warmup: steps of linear warm-up; 0 starts at the peak.
        total: step at which the cosine reaches `min_ratio`.
        min_ratio: in [0, 1].
    Returns:
        A number in [0, 1]: 1 at the end of the warm-up.
    Example:
        >>> [round(warmup_cosine(s, warmup=2, total=4, min_ratio=0.0), 3) for s in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = 1.0 if step >= total else (step - warmup) / (total - warmup)
    return min_ratio + (1.0 - min_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))
