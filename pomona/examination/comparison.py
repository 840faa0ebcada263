"""What a report claims, computed from its arms: curves on a common axis, costs, and the comparison at equal compute.

Compute is what made a model: training, growing, calibrating. Measuring it and searching a learning rate
(`records.ASIDE`) are listed but counted on no axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeGuard

from pomona.examination.records import ASIDE, Arm, ModelRow, ReportData, StageRecord
from pomona.examination.units import MINUS, TIMES, duration, fixed, flops, number, percent, visible

EQUAL = 0.05
"""Two budgets count as equal when they differ by at most this share."""
TIE = 1.05
"""Speeds that differ by less than this factor are the same."""

LEVEL = 0.005
"""Two losses count as level when they differ by at most this share: one seed cannot tell them apart."""

Outcome = Literal["ahead", "behind", "level", "open"]
Unit = Literal["bits_per_byte", "nats_per_token"]
UNIT_NAMES: dict[Unit, str] = {"bits_per_byte": "bits/byte", "nats_per_token": "nats/token"}


@dataclass(frozen=True)
class Charge:
    """FLOPs and seconds of one purpose."""

    flops: float
    seconds: float


@dataclass(frozen=True)
class Cost:
    """What a stage or an arm spent.

    `flops` and `seconds` made the model; `auxiliary` is the part of them that was not forward and backward of
    training steps (optimizer, calibration, ...), `aside` what was spent beyond them: {purpose: charge}.
    """

    tokens: float
    flops: float
    seconds: float
    peak_memory_bytes: float
    auxiliary: Mapping[str, Charge]
    aside: Mapping[str, Charge]


@dataclass(frozen=True)
class Point:
    """A loss at a place of the run, counted from the start of the arm. `value` is in the report's unit."""

    tokens: float
    flops: float
    seconds: float
    value: float


@dataclass(frozen=True)
class Mark:
    """Where an arm changed its model: at the end of a stage of kind `grow`, `prune` or `quantize`."""

    kind: str
    name: str
    flops: float
    seconds: float
    value: float | None


@dataclass(frozen=True)
class Curve:
    """An arm as a line: training batches (noisy), validation points, marks, and where it ends."""

    arm: Arm
    training: tuple[Point, ...]
    validation: tuple[Point, ...]
    marks: tuple[Mark, ...]
    flops: float
    seconds: float


@dataclass(frozen=True)
class Change:
    """A stage with its cost, the loss after it and how much it changed (negative is better)."""

    stage: StageRecord
    cost: Cost
    after: float | None
    change: float | None


@dataclass(frozen=True)
class Figure:
    """One number of the headline: `value` large, `label` small below it."""

    value: str
    label: str


@dataclass(frozen=True)
class Comparison:
    """The claim of a report.

    Args:
        outcome: "ahead", "behind", "level" (within `LEVEL`), or "open" when there is nothing to compare.
        headline: one sentence.
        details: further sentences, one thought each.
        figures: the numbers that carry it.
        caveats: what weakens it.
    """

    outcome: Outcome
    headline: str
    details: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    caveats: tuple[str, ...] = ()


def unit_of(data: ReportData) -> Unit:
    """Bits per byte when everything that was measured has it, else nats per token."""
    measured = [row.quality.bits_per_byte for row in data.models if row.quality is not None]
    for arm in data.arms:
        for stage in arm.stages:
            measured += [quality.get("bits_per_byte") for quality in _measurements(stage)]
    return "bits_per_byte" if measured and all(_is_finite(value) for value in measured) else "nats_per_token"


def cost_of(stage: StageRecord) -> Cost:
    """Read a stage's ledger."""
    purposes = stage.ledger.get("purposes")
    charges = {name: charge for name, charge in purposes.items() if isinstance(charge, Mapping)} if purposes else {}
    made = {name: charge for name, charge in charges.items() if name not in ASIDE}
    return Cost(
        tokens=_number(charges.get("train", {}).get("tokens")),
        flops=sum(_number(charge.get("flops")) for charge in made.values()),
        seconds=sum(_number(charge.get("seconds")) for charge in made.values()),
        peak_memory_bytes=_number(stage.ledger.get("peak_memory_bytes")),
        auxiliary={name: _charge(charge) for name, charge in made.items() if name != "train"},
        aside={name: _charge(charge) for name, charge in charges.items() if name in ASIDE},
    )


def total_cost(stages: Iterable[StageRecord]) -> Cost:
    """The sum over `stages` (of memory: the largest)."""
    costs = [cost_of(stage) for stage in stages]
    return Cost(
        tokens=sum(cost.tokens for cost in costs),
        flops=sum(cost.flops for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        peak_memory_bytes=max((cost.peak_memory_bytes for cost in costs), default=0.0),
        auxiliary=_sum_by_name(cost.auxiliary for cost in costs),
        aside=_sum_by_name(cost.aside for cost in costs),
    )


def curve_of(arm: Arm, unit: Unit) -> Curve:
    """Join the metrics of an arm's stages into one line; each stage counts from its own start."""
    training: list[Point] = []
    validation: list[Point] = []
    marks: list[Mark] = []
    ratio = _units_per_nat(arm, unit)
    before = Point(0.0, 0.0, 0.0, 0.0)
    for stage in arm.stages:
        for line in stage.metrics:
            measured = line.get("validation")
            if isinstance(measured, Mapping) and _is_finite(measured.get(unit)):
                validation.append(_point(line, before, float(measured[unit])))
            elif _is_finite(line.get(unit)):
                training.append(_point(line, before, float(line[unit])))
            elif ratio is not None and _is_finite(line.get("loss")):
                training.append(_point(line, before, ratio * float(line["loss"])))
        cost = cost_of(stage)
        before = Point(before.tokens + cost.tokens, before.flops + cost.flops, before.seconds + cost.seconds, 0.0)
        if stage.kind in ("grow", "prune", "quantize"):
            marks.append(Mark(stage.kind, stage.name, before.flops, before.seconds, _quality(stage, unit)))
    return Curve(arm, tuple(training), tuple(validation), tuple(marks), before.flops, before.seconds)


def changes_of(arm: Arm, unit: Unit) -> list[Change]:
    """Each stage of an arm with what it cost and how it moved the held-out loss."""
    changes: list[Change] = []
    before: float | None = None
    for stage in arm.stages:
        after = _quality(stage, unit)
        change = after - before if after is not None and before is not None else None
        changes.append(Change(stage, cost_of(stage), after, change))
        before = before if after is None else after
    return changes


def value_at(points: Sequence[Point], at: float) -> float | None:
    """The validation loss when `at` FLOPs were spent, linear between points; None outside of them."""
    if points and math.isclose(points[-1].flops, at, rel_tol=EQUAL) and at >= points[-1].flops:
        return points[-1].value
    for left, right in pairwise(points):
        if left.flops <= at <= right.flops:
            share = (at - left.flops) / (right.flops - left.flops) if right.flops > left.flops else 1.0
            return left.value + share * (right.value - left.value)
    return None


def reached(points: Sequence[Point], value: float) -> Point | None:
    """Where a curve first comes down to `value`, linear between points; None when it never does."""
    if points and points[0].value <= value:
        return points[0]
    for left, right in pairwise(points):
        if left.value > value >= right.value:
            share = (left.value - value) / (left.value - right.value)
            return Point(
                left.tokens + share * (right.tokens - left.tokens),
                left.flops + share * (right.flops - left.flops),
                left.seconds + share * (right.seconds - left.seconds),
                value,
            )
    return None


def compare(data: ReportData) -> Comparison:
    """The first recipe against the strongest baseline at equal compute, and its model dense against compressed."""
    unit = unit_of(data)
    recipe = next((arm for arm in data.arms if arm.role == "recipe"), None)
    if recipe is None:
        return Comparison("open", "This report holds no recipe, so it claims nothing.")
    baselines = [arm for arm in data.arms if arm.role == "baseline"]
    ours = final_value(data, recipe, unit)
    details, figures = _compressed(data, recipe, unit)
    if ours is None:
        return Comparison("open", "Nothing was measured on held-out text, so nothing is claimed.", details, figures)
    contests = [contest for arm in baselines if (contest := _contest(data, recipe, arm, unit)) is not None]
    if not contests:
        why = "no baseline was run" if not baselines else "the budgets of its baselines do not meet its own"
        headline = f"The recipe reaches {_shown(ours, unit)}; {why}, so no gain is claimed."
        return Comparison("open", headline, details, figures)
    best = min(contests, key=lambda contest: contest.theirs)
    name = "the baseline" if len(baselines) == 1 else f"the strongest baseline ({visible(best.baseline.name)})"
    difference = best.ours - best.theirs
    share = abs(difference) / best.theirs
    outcome: Outcome = "level" if share <= LEVEL else "ahead" if difference < 0 else "behind"
    speed, speed_figures = _speed(recipe, best, unit, name) if outcome != "level" else ((), ())
    places = _places(best.ours, best.theirs)
    size = f"{fixed(abs(difference), places)} ({percent(share)})"
    verdict = {
        "ahead": f"better by {size}",
        "behind": f"the recipe loses by {size}",
        "level": "level within half a percent, nothing gained or lost",
    }[outcome]
    headline = (
        f"At equal compute ({flops(best.budget)} each) the recipe reaches {fixed(best.ours, places)} "
        f"{UNIT_NAMES[unit]}, {name} {fixed(best.theirs, places)}: {verdict}."
    )
    sign = {"ahead": MINUS, "behind": "+", "level": ""}[outcome]
    first = Figure(sign + percent(share), f"{UNIT_NAMES[unit]} against {name} at equal compute")
    return Comparison(outcome, headline, (*speed, *details), (first, *speed_figures, *figures), best.caveats)


def final_value(data: ReportData, arm: Arm, unit: Unit) -> float | None:
    """Held-out loss of what an arm trained, before compression: its dense model's, else its last measurement."""
    row = dense_row(data, arm)
    if row is not None and row.quality is not None:
        return _row_value(row, unit)
    for stage in reversed(arm.stages):
        if stage.kind != "quantize" and (value := _quality(stage, unit)) is not None:
            return value
    return None


def dense_row(data: ReportData, arm: Arm) -> ModelRow | None:
    """The uncompressed model at the end of an arm: among rows named like a stage the latest, else the last row."""
    order = {stage.name: index for index, stage in enumerate(arm.stages)}
    rows = [row for row in data.models if row.arm == arm.name and row.form == "dense"]
    return max(rows, key=lambda row: (order.get(row.name, len(order)), rows.index(row)), default=None)


def compressed_pairs(data: ReportData) -> list[tuple[ModelRow, ModelRow]]:
    """(dense, compressed) rows of the same arm."""
    dense = {arm.name: row for arm in data.arms if (row := dense_row(data, arm)) is not None}
    return [(dense[row.arm], row) for row in data.models if row.form != "dense" and row.arm in dense]


@dataclass(frozen=True)
class _Contest:
    """Two losses at one budget."""

    baseline: Arm
    budget: float
    ours: float
    theirs: float
    caveats: tuple[str, ...] = ()


def _contest(data: ReportData, recipe: Arm, baseline: Arm, unit: Unit) -> _Contest | None:
    """Both arms at the smaller of the two budgets; the longer one is read from its curve there."""
    mine, other = curve_of(recipe, unit), curve_of(baseline, unit)
    ours, theirs = final_value(data, recipe, unit), final_value(data, baseline, unit)
    if not ours or not theirs or not mine.flops or not other.flops:
        return None
    if max(mine.flops, other.flops) <= (1 + EQUAL) * min(mine.flops, other.flops):
        return _Contest(baseline, max(mine.flops, other.flops), ours, theirs)
    longer, budget = (mine, other.flops) if mine.flops > other.flops else (other, mine.flops)
    middle = value_at(longer.validation, budget)
    shorter = other if longer is mine else mine
    if middle is None or not shorter.validation:
        return None
    end = shorter.validation[-1].value
    who = "recipe" if longer is mine else "baseline"
    caveat = (
        f"The {who} was given {number(longer.flops / budget, 3)} times the compute; it is read from its curve at "
        f"{flops(budget)}, where its learning rate may not have decayed yet."
    )
    pair = (middle, end) if longer is mine else (end, middle)
    return _Contest(baseline, budget, *pair, caveats=(caveat,))


def _speed(recipe: Arm, contest: _Contest, unit: Unit, name: str) -> tuple[tuple[str, ...], tuple[Figure, ...]]:
    """How much sooner the better arm was where the other one ended."""
    ahead = contest.ours < contest.theirs
    quick, slow = (recipe, contest.baseline) if ahead else (contest.baseline, recipe)
    end = curve_of(slow, unit)
    hit = reached(curve_of(quick, unit).validation, end.validation[-1].value) if end.validation else None
    if hit is None or not hit.flops or not hit.seconds or hit.flops >= end.flops:
        return (), ()
    whose, who = (name, "the recipe") if ahead else ("the recipe", name)
    share = percent(hit.flops / end.flops, 0)
    sentence = (
        f"{who[0].upper()}{who[1:]} has {whose}'s final quality after {share} of its compute, "
        f"in {duration(hit.seconds)} instead of {duration(end.seconds)}."
    )
    if not ahead:
        return (sentence,), ()
    times = f"{number(end.flops / hit.flops, 2)}{TIMES}"
    return (sentence,), (Figure(times, f"less compute to {name}'s final quality"),)


def _compressed(data: ReportData, recipe: Arm, unit: Unit) -> tuple[tuple[str, ...], tuple[Figure, ...]]:
    """What compression bought and cost, for the recipe's smallest compressed model."""
    pairs = [(dense, small) for dense, small in compressed_pairs(data) if dense.arm == recipe.name]
    if not pairs:
        return (), ()
    dense, small = min(pairs, key=lambda pair: pair[1].bytes)
    if not small.bytes or not dense.bytes:
        return (), ()
    ratio = f"{number(dense.bytes / small.bytes, 2)}{TIMES}"
    figures = [Figure(ratio, f"smaller folder: {visible(small.form)}")]
    clauses = [f"is {ratio} smaller"]
    before, after = _row_value(dense, unit), _row_value(small, unit)
    if dense.decode_tokens_per_second and small.decode_tokens_per_second:
        gain = small.decode_tokens_per_second / dense.decode_tokens_per_second
        text = f"{number(max(gain, 1 / gain), 2)}{TIMES}"
        word = "faster" if gain >= 1 else "slower"
        if max(gain, 1 / gain) < TIE:
            clauses.append("writes as fast")
        else:
            figures.append(Figure(text, f"{word} decoding than the dense model"))
            clauses.append(f"writes {text} {word}")
    if before is not None and after is not None:
        places = _places(before, after)
        change = after - before
        word = "costs" if change >= 0 else "gains"
        clauses.append(f"{word} {fixed(abs(change), places)} {UNIT_NAMES[unit]} ({percent(abs(change) / before)})")
    joined = clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + " and " + clauses[-1]
    return (f"Compressed ({visible(small.form)}), the recipe's model {joined}.",), tuple(figures)


def _row_value(row: ModelRow, unit: Unit) -> float | None:
    value: Any = getattr(row.quality, unit) if row.quality is not None else None
    return float(value) if _is_finite(value) else None


def _measurements(stage: StageRecord) -> list[Mapping[str, Any]]:
    found = [line["validation"] for line in stage.metrics if isinstance(line.get("validation"), Mapping)]
    quality = stage.facts.get("quality")
    return [*found, quality] if isinstance(quality, Mapping) else found


def _quality(stage: StageRecord, unit: Unit) -> float | None:
    """The held-out loss after a stage."""
    values = [float(quality[unit]) for quality in _measurements(stage) if _is_finite(quality.get(unit))]
    return values[-1] if values else None


def _units_per_nat(arm: Arm, unit: Unit) -> float | None:
    """What turns a training loss (nats per token) into the report's unit: the ratio of the last full measurement."""
    if unit == "nats_per_token":
        return 1.0
    ratios = [
        float(quality[unit]) / float(quality["nats_per_token"])
        for stage in arm.stages
        for quality in _measurements(stage)
        if _is_finite(quality.get(unit)) and _is_finite(quality.get("nats_per_token")) and quality["nats_per_token"]
    ]
    return ratios[-1] if ratios else None


def _point(line: Mapping[str, Any], before: Point, value: float) -> Point:
    return Point(
        before.tokens + _number(line.get("tokens")),
        before.flops + _number(line.get("flops")),
        before.seconds + _number(line.get("seconds")),
        value,
    )


def _charge(charge: Mapping[str, Any]) -> Charge:
    return Charge(_number(charge.get("flops")), _number(charge.get("seconds")))


def _number(value: Any) -> float:
    return float(value) if _is_finite(value) else 0.0


def _is_finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _sum_by_name(parts: Iterable[Mapping[str, Charge]]) -> dict[str, Charge]:
    total: dict[str, Charge] = {}
    for part in parts:
        for name, charge in part.items():
            known = total.get(name, Charge(0.0, 0.0))
            total[name] = Charge(known.flops + charge.flops, known.seconds + charge.seconds)
    return total


def _places(left: float, right: float) -> int:
    """Decimals that show two losses and their difference: 2, or up to 4 where the difference is small."""
    difference = abs(left - right)
    return 2 if difference >= 0.045 or not difference else min(4, max(2, 1 - math.floor(math.log10(difference))))


def _shown(value: float, unit: Unit) -> str:
    return f"{fixed(value, 2)} {UNIT_NAMES[unit]}"
