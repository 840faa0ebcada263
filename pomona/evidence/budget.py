"""Budgets that a user types, and recipes stretched to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pomona.ground.errors import ConfigError
from pomona.stages.plan import Entry
from pomona.stages.training import TrainingStage

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FORM = re.compile(r"(?P<amount>\d+(\.\d+)?(e[+-]?\d+)?)\s*(?P<unit>s|m|h|d|flops)", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """What one run may spend on training and calibration: seconds on this machine, or FLOPs."""

    amount: float
    unit: Literal["seconds", "flops"]

    def __str__(self) -> str:
        return f"{self.amount:.3g} {'FLOPs' if self.unit == 'flops' else 's'}"


def parse_budget(text: str) -> Budget:
    """A budget from `90s`, `10m`, `2h` or `1e15flops`.

    Raises:
        ConfigError: it is none of these, or not above 0.

    Example:
        >>> parse_budget("10m"), parse_budget("1e15 flops")
        (Budget(amount=600.0, unit='seconds'), Budget(amount=1000000000000000.0, unit='flops'))
    """
    found = FORM.fullmatch(text.strip())
    if found is None or float(found["amount"]) <= 0:
        raise ConfigError(f"{text!r} is not a budget", needs="a time or FLOPs above 0", do="90s, 10m, 2h, 1e15flops")
    unit, amount = found["unit"].lower(), float(found["amount"])
    return Budget(amount, "flops") if unit == "flops" else Budget(amount * SECONDS[unit], "seconds")


def stretched(values: Sequence[Any], entries: Sequence[Entry], budget: Budget) -> list[Any]:
    """Stages whose training is longer or shorter by one factor, so that they cost the budget.

    Args:
        values: of the stages, as the recipe lists them.
        entries: of their plan, measured where the budget is a time.
        budget: of the whole run; what cannot be stretched (calibration) comes out of it first.

    Raises:
        ConfigError: no stage has a length to stretch, a cost is unknown, or the budget is spent before any training.
    """
    fixed = variable = 0.0
    for entry in entries:
        cost = entry.forecast.flops if budget.unit == "flops" else entry.seconds
        stage = entry.node.stage
        if not isinstance(stage, TrainingStage):
            fixed += (cost or 0.0) if stage.makes == "model" else 0.0
            continue
        if cost is None:
            raise ConfigError(
                f"what {entry.node.label} costs is not known before it runs", do="give the budget in FLOPs"
            )
        variable += cost
    if not variable:
        raise ConfigError("there is no training stage whose length could follow the budget")
    factor = (budget.amount - fixed) / variable
    if factor <= 0:
        raise ConfigError(f"the budget of {budget} is spent before any training", found=f"{fixed:.3g} without it")
    return [scaled(each, entry, factor) for each, entry in zip(values, entries, strict=True)]


def scaled(value: Any, entry: Entry, factor: float) -> Any:
    """One stage of a recipe, its own length multiplied; what follows from other stages (`flops_of`) is left alone."""
    stage = entry.node.stage
    if not isinstance(stage, TrainingStage):
        return value
    ((verb, given),) = value.items()
    changed = dict(given)
    if stage.steps is not None:
        changed["steps"] = max(1, round(stage.steps * factor))
    elif stage.tokens is not None:
        changed["tokens"] = max(stage.tokens_per_step, round(stage.tokens * factor))
    elif stage.flops is not None:
        changed["flops"] = stage.flops * factor
    return {verb: changed}
