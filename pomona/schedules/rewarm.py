"""Re-warming: raise the rate again when training goes on with new text, and let it fall along a cosine.

Source: "Continual Pre-Training of Large Language Models: How to (re)warm your model?", arXiv:2308.04014, Sec. 3 (linear
    warm-up over 0 to 2 % of the steps, cosine to a tenth of the peak, peaks of half to twice the first one), Sec. 4
    (the length of the warm-up hardly matters; a higher peak learns more of the new text and forgets more of the old).
Implements: S steps, W of them warm-up; start a, peak p and smallest rate q = min_ratio p, as shares of the peak rate of
    the run that is continued:
    step s < W:   a + (p - a) s / W;      else   q + (p - q) (1 + cos(pi (s - W) / (S - W))) / 2.
    p = 0: no re-warming, the last rate of the run before is kept. Moments are kept (or begin anew, on request).
Deviations: none; the paper's batch and grid are its recipes', not the schedule's. `start: last` is this library's.
Use when: a model is trained on with other text; peak 1 or more to adapt, less to retain. Cost: the artefact of the
    model also holds the optimizer's state, from which the next run goes on.
Relations: `warmup-cosine` but for the first step (rate a, not 1/W of the peak) and for what it takes from the run
    before; `infinite-lr` exists so that no re-warming is needed.
Limits: only what was trained under this schedule hands over its moments and its last rate; other models are continued
    with new moments, from a rate of 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError
from pomona.schedules.duration import Duration, check_fits, check_total, steps_of


class RewarmConfig(MethodConfig):
    """Warm up again from the last rate or from 0, then fall along a cosine until the end of the run."""

    method: Literal["rewarm"] = "rewarm"
    peak: float = Field(default=1.0, ge=0.0)
    """Highest rate as a multiple of the optimizer's, that of the run which is continued; the paper compares 0.5, 1 and
    2. 0: none, the last rate of that run is kept."""
    warmup: Duration = 0.01
    """Length of the warm-up: a whole number of steps, or a share of the run; the paper's are 0 to 0.02."""
    min_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of `peak` that is reached at the end of the run."""
    start: Literal["zero", "last"] = "zero"
    """Where the warm-up starts: at 0, or at the last rate of the run that is continued."""
    moments: Literal["kept", "new"] = "kept"
    """Whether the optimizer goes on with its moments of the run before. New ones make a spike of their own."""

    @model_validator(mode="after")
    def _without_a_peak(self) -> Self:
        if self.peak == 0 and "warmup" in self.model_fields_set and self.warmup:
            raise ValueError("peak 0 keeps the last rate: there is nothing to warm up to, remove warmup")
        return self

    def build(self, total_steps: int) -> RewarmSchedule:
        """The schedule of a first run, or of one that continues a model of which no last rate is known.

        Raises:
            ConfigError: the warm-up is longer than the run, or a last rate would be needed.
        """
        if self.peak == 0 or self.start == "last":
            raise ConfigError(
                f"{self.method} does not know the last rate of the run that is continued",
                needs="a model that was trained under this schedule",
                found=f"peak {self.peak:g}, start: {self.start}",
                do="train the first run with `schedule: rewarm` too, or set a peak above 0 and `start: zero`",
            )
        return self._from(0.0, total_steps)

    @property
    def resumes_state(self) -> bool:
        """Whether the optimizer's moments are those of the run before."""
        return self.moments == "kept"

    def continued(self, line: Mapping[str, Any], total_steps: int) -> RewarmSchedule:
        """The schedule of a run that continues another one, from `RewarmSchedule.state_dict`."""
        last = float(line["last"])
        if self.peak == 0:
            check_total(total_steps, self.method)
            return constant(last)
        return self._from(last if self.start == "last" else 0.0, total_steps)

    def _from(self, start: float, total_steps: int) -> RewarmSchedule:
        check_total(total_steps, self.method)
        warmup = steps_of(self.warmup, total_steps)
        check_fits(self.method, total_steps, warmup=warmup)
        return RewarmSchedule(warmup=warmup, total=total_steps, start=start, peak=self.peak, min_ratio=self.min_ratio)


@dataclass(frozen=True, kw_only=True)
class RewarmSchedule:
    """The share of the peak rate by step. A value; fulfils `engine.protocols.OpenSchedule`: the run ends where its main
    line does, so the state that it hands on is its last one.

    Args:
        warmup, total: steps of the warm-up, and of the run.
        start, peak: shares of the optimizer's rate at step 0 and after the warm-up.
        min_ratio: rate at the end over that at the peak.
    """

    warmup: int
    total: int
    start: float
    peak: float
    min_ratio: float

    def __call__(self, step: int) -> float:
        """Share of the optimizer's rate at `step`.

        Example:
            >>> schedule = RewarmSchedule(warmup=2, total=6, start=0.0, peak=1.0, min_ratio=0.0)
            >>> [round(schedule(step), 3) for step in range(7)]
            [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
        """
        if step < self.warmup:
            return self.start + (self.peak - self.start) * step / self.warmup
        progress = 1.0 if step >= self.total else (step - self.warmup) / (self.total - self.warmup)
        low = self.min_ratio * self.peak
        return low + (self.peak - low) * 0.5 * (1.0 + math.cos(math.pi * progress))

    def leaves_after(self, steps: int) -> int:
        """All of a run's steps: nothing is annealed on a branch."""
        return steps

    def continued(self, at: int) -> RewarmSchedule:
        """What a run that follows `at` steps of this one would do without re-warming: the last rate, kept."""
        return constant(self(max(at - 1, 0)))

    def state_dict(self) -> dict[str, Any]:
        """The rate at its start, which is the last one of the run before."""
        return {"method": "rewarm", "last": self(0)}


def constant(rate: float) -> RewarmSchedule:
    """One rate for ever."""
    return RewarmSchedule(warmup=0, total=1, start=rate, peak=rate, min_ratio=1.0)


@dataclass(frozen=True)
class Spike:
    """What new text, or a raised rate, does to the loss on the old one.

    Attributes:
        height: most nats above the loss at the beginning; 0 where it never rises.
        peak_at: tokens at which it is highest.
        regained_at: tokens at which it is back for good, after the peak; inf where it is not; 0 where it never rose.
    """

    height: float
    peak_at: float
    regained_at: float


def spike_of(curve: Sequence[tuple[float, float]]) -> Spike:
    """The rise in a curve of (tokens, loss), the first of which is the loss before.

    Example:
        >>> spike_of([(0, 3.0), (1, 3.5), (2, 3.25), (3, 2.75)])
        Spike(height=0.5, peak_at=1, regained_at=2.5)
    """
    before = curve[0][1]
    place = max(range(len(curve)), key=lambda index: curve[index][1])
    height = curve[place][1] - before
    if height <= 0:
        return Spike(0.0, curve[0][0], 0.0)
    for (tokens, loss), (later, next_loss) in zip(curve[place:], curve[place + 1 :], strict=False):
        if next_loss <= before:
            return Spike(height, curve[place][0], tokens + (later - tokens) * (loss - before) / (loss - next_loss))
    return Spike(height, curve[place][0], math.inf)
