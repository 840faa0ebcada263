"""One picture for each experiment: every seed of every arm, and how the losses got there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from pomona.evidence.card import Metric
from pomona.evidence.table import Table
from pomona.examination.canvas import (
    INK,
    SMALL,
    WIDTH,
    decimals,
    drawing,
    round_steps,
    ticks,
)
from pomona.examination.units import fixed, shorten

COLOURS = {"method": "recipe", "baseline": "baseline", "reference": "soft"}


def arms_plot(table: Table, metric: Metric, roles: Mapping[str, str], *, name: str = "arms") -> str:
    """One row for each arm: a dot for every seed, a bar at the mean. A file of its own.

    Args:
        table: what was measured.
        metric: which of its numbers.
        roles: of the arms; see `pomona.evidence.card.Arm`.
        name: unique on the page.
    """
    values = {arm: [value for value in table.values(arm, metric.name) if math.isfinite(value)] for arm in table.arms}
    flat = [value for each in values.values() for value in each]
    row, left = 30.0, 150
    height = 84 + row * len(values)
    with drawing(WIDTH, height) as canvas:
        arrow = "←" if metric.better == "lower" else "→"
        canvas.title(f"{metric.name} ({arrow} better)")
        axes = canvas.axes(left=left, right=70, top=30, bottom=44)
        low, high = span(flat)
        axes.set_xlim(low, high)
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color=INK["line"], linewidth=1)
        steps = round_steps(low, high, 5)
        ticks(axes, "x", steps, lambda value: fixed(value, decimals(steps)))
        axes.set_yticks([])
        places = decimals(steps) + 1
        for index, (arm, seen) in enumerate(values.items()):
            colour = INK[COLOURS.get(roles.get(arm, "method"), "recipe")]
            _, y = canvas.place(axes, low, index)
            canvas.text(0, y, shorten(arm, 20), color=colour, weight="bold", size=SMALL)
            if not seen:
                canvas.text(left + 8, y, "not finite", color="soft", size=SMALL)
                continue
            axes.plot(seen, [index] * len(seen), linestyle="none", marker="o", markersize=6, color=colour, alpha=0.6)
            axes.plot([fmean(seen)] * 2, [index - 0.32, index + 0.32], color=colour, linewidth=2.5)
            canvas.text(WIDTH - 62, y, fixed(fmean(seen), places), color="ink", size=SMALL)
        spoken = "; ".join(f"{arm} {fixed(fmean(seen), places)}" for arm, seen in values.items() if seen)
    return canvas.svg(name, f"{metric.name}: {spoken}", standalone=True)


def span(values: Sequence[float]) -> tuple[float, float]:
    """The range of an axis: all values with room on both sides, so that noise does not fill the picture."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = max(0.12 * (high - low), 0.01 * max(abs(low), abs(high)), 1e-12)
    return low - room, high + room
