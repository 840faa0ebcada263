"""The pictures of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pomona.examination.canvas import (
    INK,
    SMALL,
    WIDTH,
    Canvas,
    PointLabel,
    decimals,
    drawing,
    round_steps,
    rounded,
    ticks,
)
from pomona.examination.comparison import (
    UNIT_NAMES,
    Curve,
    Point,
    compressed_pairs,
    cost_of,
    curve_of,
    total_cost,
    unit_of,
    value_at,
)
from pomona.examination.records import Arm, ReportData
from pomona.examination.units import data_size, duration, fixed, flops, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Axis = Literal["flops", "seconds"]


def loss_plot(data: ReportData, axis: Axis, *, standalone: bool = False) -> str | None:
    """Held-out loss of every arm against what was spent on it; None when nothing was measured.

    Thin lines are training batches, dots are held-out text, a tick under the curve marks where an arm grew, and a
    diamond is the model after quantization.

    Args:
        data: the report.
        axis: "flops" or "seconds"; both are logarithmic and count what `comparison` counts.
        standalone: bring along colours and font, for a file of its own.
    """
    unit = unit_of(data)
    curves = [curve for arm in data.arms if (curve := curve_of(arm, unit)).validation]
    ends = [getattr(curve, axis) or getattr(curve.validation[-1], axis) for curve in curves]
    if not curves or max(ends) <= 0:
        return None
    colours = arm_colours(data.arms)
    name = UNIT_NAMES[unit].replace("/", " per ")
    what = "compute" if axis == "flops" else "wall-clock time"
    with drawing(WIDTH, 344) as canvas:
        axes = canvas.axes(left=40, right=112, top=34, bottom=44)
        canvas.title(f"{name[0].upper()}{name[1:]} on held-out text, by {what}")
        start = _first_shown(curves, axis, max(ends))
        axes.set_xscale("log")
        axes.set_xlim(start, max(ends) * 1.02)
        low, high = _loss_range(curves, axis, start)
        axes.set_ylim(low, high)
        ticks(axes, "x", _log_ticks(start, max(ends), axis), _plain_flops if axis == "flops" else _plain_duration)
        steps = round_steps(low, high, 5)
        ticks(axes, "y", steps, lambda value: fixed(value, decimals(steps)))
        labels = []
        for curve in curves:
            colour = colours[curve.arm.name]
            dashed = (0, (5, 2)) if curve.arm.role == "baseline" else "-"
            thin = _thinned(curve.training, axis, start, max(ends))
            axes.plot(*thin, color=colour, linewidth=0.8, alpha=0.35)
            xs, ys = [getattr(point, axis) for point in curve.validation], [point.value for point in curve.validation]
            axes.plot(xs, ys, color=colour, linewidth=2, linestyle=dashed)
            dots = canvas.sparse(axes, xs, ys)
            axes.plot(*dots, color=colour, linestyle="none", marker="o", markersize=4.6, clip_on=False)
            labels.append((xs[-1], ys[-1], shorten(curve.arm.name, 16), colour))
            for mark in curve.marks:
                at = getattr(mark, axis)
                if mark.kind == "grow":
                    level = value_at(curve.validation, mark.flops)
                    _growth(canvas, axes, at, level if level is not None else high, mark.name, colour)
                elif mark.value is not None:
                    axes.plot([at], [mark.value], color=colour, marker="D", markersize=6.5, clip_on=False)
                    labels.append((at, mark.value, shorten(mark.name, 16), colour))
        canvas.end_labels(axes, labels, places=2 if unit == "bits_per_byte" else 3)
        spoken = "; ".join(
            f"{shorten(curve.arm.name, 60)} ends at {fixed(curve.validation[-1].value, 3)}" for curve in curves
        )
    return canvas.svg(f"loss-{axis}", f"{name} against {what}: {spoken}", standalone)


def size_plot(data: ReportData, *, standalone: bool = False) -> str | None:
    """Folder size against held-out loss, one dot per model, dense and compressed joined; None below two models."""
    unit = unit_of(data)
    rows = [
        (row, float(value))
        for row in data.models
        if row.quality is not None and (value := getattr(row.quality, unit)) is not None and row.bytes > 0
    ]
    if len(rows) < 2:
        return None
    colours = arm_colours(data.arms)
    known = {row.name: value for row, value in rows}
    with drawing(WIDTH, 300) as canvas:
        axes = canvas.axes(left=40, right=18, top=34, bottom=44)
        name = UNIT_NAMES[unit].replace("/", " per ")
        canvas.title(f"{name[0].upper()}{name[1:]} by size on disk")
        largest = max(row.bytes for row, _ in rows)
        axes.set_xlim(0, largest * 1.06)
        low, high = min(known.values()), max(known.values())
        room = max(0.45 * (high - low), 0.02 * high)  # noise must not fill the picture
        axes.set_ylim(low - room, high + room)
        steps = round_steps(low - room, high + room, 4)
        ticks(axes, "x", round_steps(0, largest, 5), lambda value: rounded(data_size(value)))
        ticks(axes, "y", steps, lambda value: fixed(value, decimals(steps)))
        for dense, small in compressed_pairs(data):
            if dense.name in known and small.name in known:
                axes.annotate(
                    "",
                    (small.bytes, known[small.name]),
                    (dense.bytes, known[dense.name]),
                    arrowprops={
                        "arrowstyle": "-|>,head_width=0.22,head_length=0.5",
                        "color": INK["soft"],
                        "linewidth": 1,
                        "shrinkA": 7,
                        "shrinkB": 7,
                    },
                )
        below = _lower_ends(data, known)
        labels = []
        for row, value in rows:
            colour = colours.get(row.arm, INK["soft"])
            marker = "o" if row.form == "dense" else "D"
            axes.plot([row.bytes], [value], color=colour, marker=marker, markersize=8, clip_on=False)
            note = f"{data_size(row.bytes)}, {fixed(value, 3)}"
            labels.append(PointLabel(row.bytes, value, shorten(row.name, 26), note, colour, row.name not in below))
        canvas.point_labels(axes, labels)
        spoken = "; ".join(f"{shorten(row.name, 60)} {data_size(row.bytes)} {fixed(value, 3)}" for row, value in rows)
    return canvas.svg("size", f"{name} against size: {spoken}", standalone)


def cost_plot(data: ReportData, *, standalone: bool = False) -> str | None:
    """Wall-clock time of every stage as bars, what no budget counts as outlines; None when nothing took time."""
    colours = arm_colours(data.arms)
    groups: list[tuple[str, str, list[_Bar]]] = []
    for title, colour, stages in [
        ("shared by all", INK["soft"], data.shared),
        *((arm.name, colours[arm.name], arm.stages) for arm in data.arms),
    ]:
        bars = []
        for stage in stages:
            cost = cost_of(stage)
            if cost.seconds > 0:
                note = f"{duration(cost.seconds)}, {flops(cost.flops)}" if cost.flops else duration(cost.seconds)
                bars.append(_Bar(shorten(stage.name, 16), cost.seconds, note, True))
        for purpose, charge in total_cost(stages).aside.items():
            if charge.seconds > 0:
                bars.append(
                    _Bar(shorten(purpose, 16), charge.seconds, f"{duration(charge.seconds)}, not counted", False)
                )
        if bars:
            groups.append((shorten(title, 44), colour, bars))
    if not groups:
        return None
    row, longest = 21, max(bar.seconds for *_, bars in groups for bar in bars)
    height = 34 + sum(30 + row * len(bars) for *_, bars in groups)
    with drawing(WIDTH, height) as canvas:
        canvas.title("Wall-clock time of every stage")
        y = 34.0
        for title, colour, bars in groups:
            canvas.text(0, y + 12, title, color="ink", weight="bold")
            y += 22
            for bar in bars:
                canvas.text(0, y + row / 2, bar.name, color="soft", size=SMALL)
                width = max(1.5, (WIDTH - 124 - 140) * bar.seconds / longest)
                canvas.bar(124, y + 4, width, row - 8, colour, filled=bar.filled)
                canvas.text(124 + width + 7, y + row / 2, bar.note, color="ink", size=SMALL)
                y += row
            y += 8
        spoken = "; ".join(f"{title}: " + ", ".join(f"{b.name} {b.note}" for b in bars) for title, _, bars in groups)
    return canvas.svg("cost", f"time per stage: {spoken}", standalone)


def arm_colours(arms: Sequence[Arm]) -> dict[str, str]:
    """The colour of each arm, as the sentinel that becomes a CSS variable when the drawing is finished."""
    return {name: INK[variable] for name, variable in arm_variables(arms).items()}


def arm_variables(arms: Sequence[Arm]) -> dict[str, str]:
    """The CSS variable (without dashes) of each arm: recipes and baselines take turns among their own two."""
    variables, seen = {}, {"recipe": 0, "baseline": 0}
    for arm in arms:
        variables[arm.name] = arm.role + ("-2" if seen[arm.role] % 2 else "")
        seen[arm.role] += 1
    return variables


@dataclass(frozen=True)
class _Bar:
    name: str
    seconds: float
    note: str
    filled: bool


def _lower_ends(data: ReportData, known: Mapping[str, float]) -> set[str]:
    """Models whose label belongs under the dot, because the arrow to their compressed twin leaves upwards."""
    ends = set()
    for dense, small in compressed_pairs(data):
        if dense.name in known and small.name in known:
            ends.add(dense.name if known[dense.name] <= known[small.name] else small.name)
    return ends


def _growth(canvas: Canvas, axes: Axes, at: float, level: float, name: str, colour: str) -> None:
    """A hairline from the axis up to the curve, named at its foot."""
    low, _ = axes.get_ylim()
    axes.plot([at, at], [low, level], color=colour, linewidth=1, linestyle=(0, (1, 2)))
    x, y = canvas.place(axes, at, low)
    canvas.text(x - 5, y - 10, shorten(name, 16), color=colour, size=SMALL, align="right")


def _first_shown(curves: Sequence[Curve], axis: Axis, end: float) -> float:
    """Where the axis begins: just before the first held-out measurement of any arm, within two decades of the end."""
    first = min(getattr(point, axis) for curve in curves for point in curve.validation if getattr(point, axis) > 0)
    return float(min(max(0.8 * first, end / 100), end / 2))


def _loss_range(curves: Sequence[Curve], axis: Axis, start: float) -> tuple[float, float]:
    """Room for every held-out measurement right of `start` and every mark."""
    values = [point.value for curve in curves for point in curve.validation if getattr(point, axis) >= start]
    values += [
        mark.value for curve in curves for mark in curve.marks if mark.kind == "quantize" and mark.value is not None
    ]
    low, high = min(values), max(values)
    room = max(high - low, 0.02 * high)
    return low - 0.12 * room, high + 0.06 * room


def _thinned(points: Sequence[Point], axis: Axis, start: float, end: float) -> tuple[list[float], list[float]]:
    """Means over at most 160 equal pieces of a logarithmic axis: a line that says as much with a tenth of the file."""
    cells: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        at = getattr(point, axis)
        if at >= start:
            cells.setdefault(round(160 * math.log(at / start) / math.log(end / start)), []).append((at, point.value))
    means = [(sum(x for x, _ in cell) / len(cell), sum(y for _, y in cell) / len(cell)) for cell in cells.values()]
    means.sort()
    return [x for x, _ in means], [y for _, y in means]


def _plain_flops(value: float) -> str:
    return rounded(flops(value))


def _plain_duration(value: float) -> str:
    return rounded(duration(value))


def _log_ticks(start: float, end: float, axis: Axis) -> list[float]:
    """Evenly spread round numbers of a logarithmic axis: the finest series whose names stay clear of each other."""
    if axis == "seconds":
        parts = [0.001, 0.01, 0.1, 0.5]
        middle = [1, 2, 4, 8, 15, 30, 60, 120, 240, 480, 900, 1800, 3600, 7200, 14400, 28800, 57600]
        days = [86400 * 2**power for power in range(1, 10)]
        coarse = [0.001, 0.1, 10, 60, 600, 3600, 36000, 864000, 1e7]
        series = [[*parts, *middle, *days], [*parts[::2], *middle[::2], *days[::2]], coarse]
        room = 7.5
    else:
        powers = range(math.floor(math.log10(start)), math.ceil(math.log10(end)) + 1)
        factors: tuple[tuple[int, ...], ...] = ((1, 2, 5), (1, 3), (1,))
        series = [[factor * 10.0**power for power in powers for factor in chosen] for chosen in factors]
        room = 5.5
    whole = math.log(end / start)
    for values in series:
        shown = [value for value in values if start <= value <= end]
        if all(math.log(right / left) >= whole / room for left, right in pairwise(shown)):
            return shown
    return shown[:: math.ceil(len(shown) / room)]
