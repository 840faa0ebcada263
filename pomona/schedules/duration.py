"""Durations inside a schedule: a number of steps, or a share of all steps."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pomona.ground.errors import ConfigError

Duration = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0.0, le=1.0)]
"""A whole number counts steps (`100`); a number with a point is a share of all steps (`0.05`)."""


def steps_of(duration: int | float, total_steps: int) -> int:
    """The number of steps that a duration stands for in a run of `total_steps`."""
    return duration if isinstance(duration, int) else round(duration * total_steps)


def check_total(total_steps: int, method: str) -> None:
    """Refuse a run without steps."""
    if total_steps < 1:
        raise ConfigError(f"{method} needs a run of at least one step", found=f"total_steps = {total_steps}")


def check_fits(method: str, total_steps: int, **parts: int) -> None:
    """Refuse phases that are together longer than the run."""
    if sum(parts.values()) > total_steps:
        raise ConfigError(
            f"{method}: the phases are longer than the run",
            needs=f"{' + '.join(parts)} <= {total_steps} steps",
            found=" + ".join(f"{name} {steps}" for name, steps in parts.items()),
            do="shorten a phase, or give it as a share of the run (0.05) instead of steps",
        )
