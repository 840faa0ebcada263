"""Infinite learning rate: warm up once, cool down to a constant rate, anneal on a side branch when a model is wanted.

Source: "Beyond Cosine Decay: On the effectiveness of Infinite Learning Rate Schedule for Continual Pre-training",
arXiv:2503.02844, Sec. 3 (the schedule; phase ends 5 %, 15 % and 80 % of the first task).
Implements: for step n, peak 1, constant rate c, smallest rate m and phase ends N_w < N_c <= N_d < N_e
    warm-up     n <= N_w:  n / N_w
    cool-down   n <= N_c:  cosine c + (1 - c) (1 + cos(pi u)) / 2, linear 1 + (c - 1) u, or inverse square root
                           1 + (c - 1) f(u) / f(1) with f(u) = 1 / sqrt(1 + 10 u) - 1;  u = (n - N_w) / (N_c - N_w)
    constant    n <= N_d:  c
    annealing   n <= N_e:  c (m / c)^((n - N_d) / (N_e - N_d)), and m after it.
Deviations: none. As published, the very first step has rate 0; `warmup: 0` starts at the peak.
    The paper gives ranges for c (0.25-0.6) and m (0.01-0.1); the defaults lie in their middle.
Use when: data will keep arriving, or the number of steps is not known. Cost: the steps of each annealed branch.
Relations: `warmup-stable-decay` (exponential) when c = 1 without cool-down; one cosine when c = m and N_c = N_e.
Limits: a stage that continues such a run starts from the state before annealing, which lies in the artefact beside the
    model; starting from the annealed state at rate c is a re-warming, which this schedule exists to avoid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError
from pomona.schedules.duration import Duration, check_fits, check_total, steps_of

Style = Literal["cosine", "linear", "inverse-sqrt"]
Phase = Literal["warm-up", "cool-down", "constant", "annealing"]


class InfiniteLrConfig(MethodConfig):
    """Warm up, cool down to a constant rate, and anneal at the end of the run (or never)."""

    method: Literal["infinite-lr"] = "infinite-lr"
    warmup: Duration = 0.05
    """Length of the warm-up: a whole number of steps, or a share of the run. A dataset that continues has none."""
    cooldown: Duration = 0.1
    """Length of the fall from the peak to the constant rate. A dataset that continues has none."""
    anneal: Duration = 0.2
    """Length of the annealing at the end of the run; 0 leaves the run open-ended, to be annealed on a branch."""
    constant_ratio: float = Field(default=0.4, gt=0.0, le=1.0)
    """Constant rate as a share of the peak; the paper uses 0.25 to 0.6."""
    min_ratio: float = Field(default=0.05, gt=0.0, le=1.0)
    """Rate at the end of the annealing as a share of the peak; the paper uses 0.01 to 0.1."""
    style: Style = "cosine"
    """Shape of the cool-down."""
    start: Literal["main-line", "annealed"] = "main-line"
    """Where a dataset after the first starts: from weights and moments before the annealing of the run that it
    continues, or from the annealed weights and new moments (which is a re-warming)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_ratio > self.constant_ratio:
            raise ValueError(f"min_ratio {self.min_ratio} must not be above constant_ratio {self.constant_ratio}")
        if self.warmup and not self.cooldown and self.constant_ratio < 1.0:
            raise ValueError("without a cool-down the rate would jump after the warm-up: set cooldown, or warmup to 0")
        return self

    def build(self, total_steps: int) -> InfiniteSchedule:
        """The schedule of a run of `total_steps` steps.

        Only shares of the run and the annealing depend on `total_steps`; with warm-up and cool-down in steps and
        `anneal: 0` nothing does.

        Raises:
            ConfigError: the phases are longer than a run that is annealed.
        """
        check_total(total_steps, self.method)
        warmup, cooldown = steps_of(self.warmup, total_steps), steps_of(self.cooldown, total_steps)
        anneal = steps_of(self.anneal, total_steps)
        if anneal:  # an open-ended run may end in any phase: the next one goes on from there
            check_fits(self.method, total_steps, warmup=warmup, cooldown=cooldown, anneal=anneal)
        return InfiniteSchedule(
            warmup=warmup,
            cooldown=cooldown,
            constant=self.constant_ratio,
            minimum=self.min_ratio,
            style=self.style,
            anneal_start=total_steps - anneal if anneal else None,
            anneal_end=total_steps if anneal else None,
        )

    @property
    def resumes_state(self) -> bool:
        """Whether a dataset after the first goes on from the state before annealing."""
        return self.start == "main-line"

    def continued(self, line: Mapping[str, Any], total_steps: int) -> InfiniteSchedule:
        """The schedule of a dataset after the first: it stays on the main line until it anneals in its turn.

        Args:
            line: where the run before left the main line, as `InfiniteSchedule.state_dict` says it.
            total_steps: of this run, its annealing included.

        Raises:
            ConfigError: another constant rate or shape than the main line's, or an annealing longer than the run.
        """
        check_total(total_steps, self.method)
        main = InfiniteSchedule.from_state_dict(dict(line))
        if (self.constant_ratio, self.style) != (main.constant, main.style):
            raise ConfigError(
                f"{self.method} cannot change the rate of the main line that it continues",
                needs=f"constant_ratio {main.constant:g}, style {main.style}",
                found=f"constant_ratio {self.constant_ratio:g}, style {self.style}",
                do="use the values of the first run",
            )
        anneal = steps_of(self.anneal, total_steps)
        check_fits(self.method, total_steps, anneal=anneal)
        if not anneal:
            return main
        return replace(main, minimum=self.min_ratio).anneal(anneal, at=total_steps - anneal)


@dataclass(frozen=True, kw_only=True)
class InfiniteSchedule:
    """The share of the peak rate by step. It is a value: forking or moving it makes another one.

    Args:
        warmup, cooldown: lengths of the first two phases in steps.
        constant, minimum: rates as shares of the peak.
        style: shape of the cool-down.
        anneal_start, anneal_end: steps between which the rate falls to `minimum`, or None for an open end.
        offset: steps done in earlier runs; it is added to the step of this one, so the counter never starts anew.
    """

    warmup: int
    cooldown: int
    constant: float
    minimum: float
    style: Style = "cosine"
    anneal_start: int | None = None
    anneal_end: int | None = None
    offset: int = 0

    def __call__(self, step: int) -> float:
        """Share of the peak rate at `step`, in [0, 1]."""
        n = step + self.offset
        phase = self.phase(step)
        if phase == "warm-up":
            return n / self.warmup
        if phase == "cool-down":
            return cool_down((n - self.warmup) / self.cooldown, constant=self.constant, style=self.style)
        if phase == "constant":
            return self.constant
        assert self.anneal_start is not None and self.anneal_end is not None
        share = min((n - self.anneal_start) / (self.anneal_end - self.anneal_start), 1.0)
        start = replace(self, anneal_start=None, anneal_end=None, offset=0)(self.anneal_start)
        return float(start * (self.minimum / start) ** share)

    def phase(self, step: int) -> Phase:
        """The phase that `step` lies in. At an end both neighbours have the same rate."""
        n = step + self.offset
        if self.anneal_start is not None and n > self.anneal_start:
            return "annealing"
        if n < self.warmup:
            return "warm-up"
        return "cool-down" if n < self.warmup + self.cooldown else "constant"

    def anneal(self, steps: int, *, at: int) -> InfiniteSchedule:
        """A branch that leaves this schedule at step `at` and reaches the smallest rate `steps` steps later.

        This schedule stays as it is: the next dataset continues on it, from the state saved at `at`.

        Raises:
            ConfigError: `at` lies in the warm-up, on another branch's annealing, or `steps` is not positive.
        """
        phase = self.phase(at)
        if steps < 1 or phase in ("warm-up", "annealing"):
            raise ConfigError(
                f"infinite-lr cannot anneal for {steps} steps from step {at}",
                needs="at least one step, from a point in the cool-down or the constant phase",
                found=f"step {at} is in the {phase} phase" if steps >= 1 else f"{steps} steps",
                do="fork from a later step of the main line",
            )
        start = at + self.offset
        return replace(self, anneal_start=start, anneal_end=start + steps)

    def continued(self, at: int) -> InfiniteSchedule:
        """The main line for the next run, whose step 0 follows `at` steps of this one; without an annealing."""
        return replace(self, anneal_start=None, anneal_end=None, offset=self.offset + at)

    def leaves_after(self, steps: int) -> int:
        """How many of a run's `steps` steps are made before it anneals."""
        return steps if self.anneal_start is None else min(steps, self.anneal_start - self.offset)

    def state_dict(self, step: int = 0) -> dict[str, Any]:
        """Everything as plain values, with the counter and the phase at `step` for a reader."""
        return {"method": "infinite-lr", **asdict(self), "counter": step + self.offset, "phase": self.phase(step)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> InfiniteSchedule:
        """The schedule that `state_dict` described."""
        return cls(**{name: value for name, value in state.items() if name not in ("method", "counter", "phase")})


def cool_down(progress: float, *, constant: float, style: Style) -> float:
    """Share of the peak after `progress` in [0, 1] of the cool-down: 1 at 0, `constant` at 1.

    Example:
        >>> [round(cool_down(0.5, constant=0.2, style=style), 4) for style in ("cosine", "linear", "inverse-sqrt")]
        [0.6, 0.6, 0.3228]
    """
    if style == "cosine":
        return constant + 0.5 * (1.0 - constant) * (1.0 + math.cos(math.pi * progress))
    if style == "linear":
        return 1.0 + (constant - 1.0) * progress
    return 1.0 + (constant - 1.0) * _inverse_root(progress) / _inverse_root(1.0)


def _inverse_root(progress: float) -> float:
    return 1.0 / math.sqrt(1.0 + 10.0 * progress) - 1.0
