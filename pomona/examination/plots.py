"""The pictures of a report: SVG with real text, no background, and colours that follow light and dark.

Every drawing is one column wide (480 units, one unit being a CSS pixel at that width), so that two stand side by
side on a desk and one fills a telephone. The same data give the same bytes: no dates, no random names.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

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
    from matplotlib.figure import Figure

Axis = Literal["flops", "seconds"]

PALETTE: dict[str, tuple[str, str]] = {
    "ink": ("#1b1d22", "#eceef2"),
    "soft": ("#5c6270", "#a3a9b6"),
    "line": ("#dfe2e8", "#343842"),
    "page": ("#ffffff", "#15171c"),
    "recipe": ("#0a5fb4", "#6fb5ff"),
    "baseline": ("#c24e00", "#ff9f5f"),
    "recipe-2": ("#00806a", "#3fcbaa"),
    "baseline-2": ("#80519f", "#caa4e4"),
}
"""Role of a colour -> (light, dark). Blue against orange stays apart for every kind of colour vision."""

WIDTH = 480
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
SIZE, SMALL = 13.0, 12.0
"""Text sizes in units."""

_SENTINELS = {name: f"#0d0e{index:02x}" for index, name in enumerate(PALETTE)}


TEXT_CSS = "svg text { paint-order: stroke; stroke: var(--page); stroke-width: 3px; }"
"""Letters cut a line that runs behind them."""


def palette_css(theme: Literal["light", "dark"]) -> str:
    """The palette as CSS custom properties."""
    return " ".join(f"--{name}: {pair[theme == 'dark']};" for name, pair in PALETTE.items())


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
    with _canvas(WIDTH, 344) as canvas:
        axes = canvas.axes(left=40, right=112, top=34, bottom=44)
        canvas.title(f"{name[0].upper()}{name[1:]} on held-out text, by {what}")
        start = _first_shown(curves, axis, max(ends))
        axes.set_xscale("log")
        axes.set_xlim(start, max(ends) * 1.02)
        low, high = _loss_range(curves, axis, start)
        axes.set_ylim(low, high)
        _ticks(axes, "x", _log_ticks(start, max(ends), axis), _plain_flops if axis == "flops" else _plain_duration)
        steps = _steps(low, high, 5)
        _ticks(axes, "y", steps, lambda value: fixed(value, _decimals(steps)))
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
    with _canvas(WIDTH, 300) as canvas:
        axes = canvas.axes(left=40, right=18, top=34, bottom=44)
        name = UNIT_NAMES[unit].replace("/", " per ")
        canvas.title(f"{name[0].upper()}{name[1:]} by size on disk")
        largest = max(row.bytes for row, _ in rows)
        axes.set_xlim(0, largest * 1.06)
        low, high = min(known.values()), max(known.values())
        room = max(0.45 * (high - low), 0.02 * high)  # noise must not fill the picture
        axes.set_ylim(low - room, high + room)
        steps = _steps(low - room, high + room, 4)
        _ticks(axes, "x", _steps(0, largest, 5), lambda value: _round(data_size(value)))
        _ticks(axes, "y", steps, lambda value: fixed(value, _decimals(steps)))
        for dense, small in compressed_pairs(data):
            if dense.name in known and small.name in known:
                axes.annotate(
                    "",
                    (small.bytes, known[small.name]),
                    (dense.bytes, known[dense.name]),
                    arrowprops={
                        "arrowstyle": "-|>,head_width=0.22,head_length=0.5",
                        "color": _SENTINELS["soft"],
                        "linewidth": 1,
                        "shrinkA": 7,
                        "shrinkB": 7,
                    },
                )
        below = _lower_ends(data, known)
        labels = []
        for row, value in rows:
            colour = colours.get(row.arm, _SENTINELS["soft"])
            marker = "o" if row.form == "dense" else "D"
            axes.plot([row.bytes], [value], color=colour, marker=marker, markersize=8, clip_on=False)
            note = f"{data_size(row.bytes)}, {fixed(value, 3)}"
            labels.append(_PointLabel(row.bytes, value, shorten(row.name, 26), note, colour, row.name not in below))
        canvas.point_labels(axes, labels)
        spoken = "; ".join(f"{shorten(row.name, 60)} {data_size(row.bytes)} {fixed(value, 3)}" for row, value in rows)
    return canvas.svg("size", f"{name} against size: {spoken}", standalone)


def cost_plot(data: ReportData, *, standalone: bool = False) -> str | None:
    """Wall-clock time of every stage as bars, what no budget counts as outlines; None when nothing took time."""
    colours = arm_colours(data.arms)
    groups: list[tuple[str, str, list[_Bar]]] = []
    for title, colour, stages in [
        ("shared by all", _SENTINELS["soft"], data.shared),
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
    with _canvas(WIDTH, height) as canvas:
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
    return {name: _SENTINELS[variable] for name, variable in arm_variables(arms).items()}


def arm_variables(arms: Sequence[Arm]) -> dict[str, str]:
    """The CSS variable (without dashes) of each arm: recipes and baselines take turns among their own two."""
    variables, seen = {}, {"recipe": 0, "baseline": 0}
    for arm in arms:
        variables[arm.name] = arm.role + ("-2" if seen[arm.role] % 2 else "")
        seen[arm.role] += 1
    return variables


@dataclass(frozen=True)
class _PointLabel:
    x: float
    y: float
    name: str
    note: str
    colour: str
    above: bool


@dataclass(frozen=True)
class _Bar:
    name: str
    seconds: float
    note: str
    filled: bool


class _Canvas:
    """A matplotlib figure addressed in units from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def axes(self, *, left: float, right: float, top: float, bottom: float) -> Axes:
        box = (left, bottom, self.width - left - right, self.height - top - bottom)
        axes = self.figure.add_axes(
            (box[0] / self.width, box[1] / self.height, box[2] / self.width, box[3] / self.height)
        )
        axes.set_axisbelow(True)
        axes.grid(axis="y", color=_SENTINELS["line"], linewidth=1)
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_SENTINELS["soft"])
        axes.spines["bottom"].set_linewidth(1)
        return axes

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        color: str,
        size: float = SIZE,
        weight: str = "normal",
        align: str = "left",
    ) -> None:
        """Put `text` with its middle at height `y`. `color` names an entry of the palette or is a sentinel."""
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            color=_SENTINELS.get(color, color),
            fontsize=size,
            fontweight=weight,
            ha=align,
            va="center_baseline",
        )

    def title(self, text: str) -> None:
        self.text(0, 10, text, color="ink", weight="bold")

    def bar(self, x: float, y: float, width: float, height: float, colour: str, *, filled: bool) -> None:
        from matplotlib.patches import Rectangle

        self.figure.add_artist(
            Rectangle(
                (x / self.width, 1 - (y + height) / self.height),
                width / self.width,
                height / self.height,
                transform=self.figure.transFigure,
                facecolor=colour if filled else "none",
                edgecolor=colour,
                linewidth=0 if filled else 1,
            )
        )

    def place(self, axes: Axes, x: float, y: float) -> tuple[float, float]:
        """Where a point of the data lies, in units."""
        across, up = axes.transData.transform((x, y))
        return float(across), self.height - float(up)

    def sparse(self, axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
        """The last point, and going back those that lie in sight and at least 9 units apart."""
        kept: list[tuple[float, float]] = []
        for x, y in zip(reversed(xs), reversed(ys), strict=True):
            if x < axes.get_xlim()[0]:
                continue
            if not kept or math.dist(self.place(axes, x, y), self.place(axes, *kept[-1])) >= 9:
                kept.append((x, y))
        return [x for x, _ in kept], [y for _, y in kept]

    def end_labels(self, axes: Axes, labels: Sequence[tuple[float, float, str, str]], places: int) -> None:
        """Name and value at the end of each line, moved apart where lines end close together."""
        spots = [self.place(axes, x, y) for x, y, _, _ in labels]
        heights = _apart([y for _, y in spots], 33, 48, self.height - 60)
        left = max(x for x, _ in spots) + 12
        for (_, value, name, colour), y in zip(labels, heights, strict=True):
            self.text(left, y - 7.5, fixed(value, places), color=colour, weight="bold")
            self.text(left, y + 7.5, name, color="soft", size=SMALL)

    def point_labels(self, axes: Axes, labels: Sequence[_PointLabel]) -> None:
        """Name and numbers above or below each dot, where they cover neither a dot nor another label."""
        dots = [self.place(axes, label.x, label.y) for label in labels]
        taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in dots]
        for (x, y), label in zip(dots, labels, strict=True):
            width = 7.2 * max(len(label.name), len(label.note))
            left = min(max(x - width / 2, 44), self.width - width)
            sides = (-40, 11) if label.above else (11, -40)
            boxes = [(left, y + side, left + width, y + side + 30) for side in sides]
            box = next((box for box in boxes if not any(_overlap(box, other) for other in taken)), boxes[0])
            taken.append(box)
            align = "right" if left + width >= self.width else "left"
            across = self.width if align == "right" else left
            self.text(across, box[1] + 7.5, label.name, color=label.colour, weight="bold", align=align)
            self.text(across, box[1] + 22.5, label.note, color="soft", size=SMALL, align=align)

    def svg(self, name: str, spoken: str, standalone: bool) -> str:
        return _clean(self._raw, name, spoken, standalone)

    def render(self) -> None:
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        self._raw = buffer.getvalue()


@contextmanager
def _canvas(width: float, height: float) -> Iterator[_Canvas]:
    """An empty drawing; it is rendered when the block ends."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "pomona",
        "font.family": "DejaVu Sans",  # for measuring only: it comes with matplotlib, so it is the same everywhere
        "text.parse_math": False,  # a dollar sign in a name is a dollar sign
        "path.simplify": False,
    }
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **settings}), warnings.catch_warnings():
        # matplotlib measures with its own font; the reader's browser has the character
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        canvas = _Canvas(figure, width, height)
        yield canvas
        canvas.render()


def _lower_ends(data: ReportData, known: Mapping[str, float]) -> set[str]:
    """Models whose label belongs under the dot, because the arrow to their compressed twin leaves upwards."""
    ends = set()
    for dense, small in compressed_pairs(data):
        if dense.name in known and small.name in known:
            ends.add(dense.name if known[dense.name] <= known[small.name] else small.name)
    return ends


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes (left, top, right, bottom) share a point."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _growth(canvas: _Canvas, axes: Axes, at: float, level: float, name: str, colour: str) -> None:
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


def _round(text: str) -> str:
    """A number without the zeros that a round one does not need: 5.00 MB is 5 MB."""
    return re.sub(r"\.0+(?!\d)|(?<=\.\d)0+(?!\d)", "", text)


def _plain_flops(value: float) -> str:
    return _round(flops(value))


def _plain_duration(value: float) -> str:
    return _round(duration(value))


def _ticks(axes: Axes, which: str, values: Sequence[float], name: Any) -> None:
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks([], minor=True)
    axis.set_ticks(list(values), [name(value) for value in values])
    axis.set_tick_params(
        length=4 if which == "x" else 0,
        color=_SENTINELS["soft"],
        labelcolor=_SENTINELS["soft"],
        labelsize=SMALL,
        pad=4 if which == "x" else 6,
    )


def _steps(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers between `low` and `high`, about `wanted` of them."""
    rough = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * magnitude for factor in (1, 2, 2.5, 5, 10)), key=lambda size: abs(size - rough))
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _decimals(steps: Sequence[float]) -> int:
    """Decimals that tell every step exactly: 1 for 1.2, 1.4, but 2 for 1.25, 1.50."""
    return next(places for places in range(13) if all(round(step, places) == round(step, 12) for step in steps))


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


def _apart(heights: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """`heights` moved as little as needed so that neighbours are `gap` apart, within [top, bottom] if they fit."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = [min(max(heights[index], top), bottom) for index in order]
    for _ in range(60):
        for index in range(1, len(placed)):
            short = gap - (placed[index] - placed[index - 1])
            if short > 0:
                placed[index - 1] -= short / 2
                placed[index] += short / 2
        if placed and placed[0] < top:
            placed[0] = top
        if placed and placed[-1] > bottom:
            placed[-1] = bottom
    result = [0.0] * len(placed)
    for index, height in zip(order, placed, strict=True):
        result[index] = height
    return result


_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"


def _clean(raw: str, name: str, spoken: str, standalone: bool) -> str:
    """matplotlib's SVG as a part of a page: names made unique, fonts and colours left to the page, nothing unused."""
    root = ElementTree.fromstring(raw.split("?>", 1)[1].split(">", 1)[1])
    variables = {sentinel: f"var(--{variable})" for variable, sentinel in _SENTINELS.items()}
    used = {
        found for element in root.iter() for value in element.attrib.values() for found in _REFERENCE.findall(value)
    }
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        if _LINK in element.attrib:
            element.set("href", element.attrib.pop(_LINK))
        for key, value in list(element.attrib.items()):
            if key == "id":
                if value in used:
                    element.set("id", f"{name}-{value}")
                else:
                    del element.attrib["id"]
                continue
            if key == "d":
                value = " ".join(value.split())
            if key in ("d", "x", "y", "width", "height", "transform"):
                value = _DECIMAL.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
            if key == "transform" and value.startswith("rotate(-0 "):
                del element.attrib[key]
                continue
            if key == "style":
                value = _style(value, variables)
            element.set(key, _REFERENCE.sub(lambda found: f"{name}-{found[0]}", value))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style") or (child.tag in ("defs", "g") and not len(child)):
                parent.remove(child)
            elif child.tag != "text":
                child.text = None
            child.tail = None
    root.text = None
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    _, _, width, height = root.get("viewBox", "").split()
    root.set("role", "img")
    root.set("aria-label", spoken)
    root.set("stroke-linejoin", "round")
    if standalone:
        root.set("xmlns", _SVG)
        root.set("width", width)
        root.set("height", height)
        root.set("font-family", FONT)
        style = ElementTree.Element("style")
        style.text = (
            f"svg {{ {palette_css('light')} }} {TEXT_CSS} "
            f"@media (prefers-color-scheme: dark) {{ svg {{ {palette_css('dark')} }} }}"
        )
        root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _style(style: str, variables: Mapping[str, str]) -> str:
    """Drop the font's name, use the page's colours, and a semi-bold where matplotlib only knows bold."""
    kept = []
    for rule in style.split(";"):
        key, _, value = (part.strip() for part in rule.partition(":"))
        if key == "font-family" or not key:
            continue
        if key == "font-weight":
            value = "600"
        kept.append(f"{key}: {variables.get(value, value)}")
    return "; ".join(kept)


_REFERENCE = re.compile(r"(?<=url\(#)[^)]+|(?<=^#).+$")
_DECIMAL = re.compile(r"-?\d+\.\d+")
