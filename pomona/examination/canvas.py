"""A drawing: SVG with real text, no background, and colours that follow light and dark.

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
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from pomona.examination.units import fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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

INK = {name: f"#0d0e{index:02x}" for index, name in enumerate(PALETTE)}


TEXT_CSS = "svg text { paint-order: stroke; stroke: var(--page); stroke-width: 3px; }"
"""Letters cut a line that runs behind them."""


def palette_css(theme: Literal["light", "dark"]) -> str:
    """The palette as CSS custom properties."""
    return " ".join(f"--{name}: {pair[theme == 'dark']};" for name, pair in PALETTE.items())


@dataclass(frozen=True)
class PointLabel:
    x: float
    y: float
    name: str
    note: str
    colour: str
    above: bool


class Canvas:
    """A matplotlib figure addressed in units from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def axes(self, *, left: float, right: float, top: float, bottom: float) -> Axes:
        box = (left, bottom, self.width - left - right, self.height - top - bottom)
        axes = self.figure.add_axes(
            (box[0] / self.width, box[1] / self.height, box[2] / self.width, box[3] / self.height)
        )
        axes.set_axisbelow(True)
        axes.grid(axis="y", color=INK["line"], linewidth=1)
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(INK["soft"])
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
            color=INK.get(color, color),
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
        heights = moved_apart([y for _, y in spots], 33, 48, self.height - 60)
        left = max(x for x, _ in spots) + 12
        for (_, value, name, colour), y in zip(labels, heights, strict=True):
            self.text(left, y - 7.5, fixed(value, places), color=colour, weight="bold")
            self.text(left, y + 7.5, name, color="soft", size=SMALL)

    def point_labels(self, axes: Axes, labels: Sequence[PointLabel]) -> None:
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
def drawing(width: float, height: float) -> Iterator[Canvas]:
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
        canvas = Canvas(figure, width, height)
        yield canvas
        canvas.render()


def ticks(axes: Axes, which: str, values: Sequence[float], name: Any) -> None:
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks([], minor=True)
    axis.set_ticks(list(values), [name(value) for value in values])
    axis.set_tick_params(
        length=4 if which == "x" else 0,
        color=INK["soft"],
        labelcolor=INK["soft"],
        labelsize=SMALL,
        pad=4 if which == "x" else 6,
    )


def round_steps(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers between `low` and `high`, about `wanted` of them."""
    rough = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * magnitude for factor in (1, 2, 2.5, 5, 10)), key=lambda size: abs(size - rough))
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def decimals(steps: Sequence[float]) -> int:
    """Decimals that tell every step exactly: 1 for 1.2, 1.4, but 2 for 1.25, 1.50."""
    return next(places for places in range(13) if all(round(step, places) == round(step, 12) for step in steps))


def rounded(text: str) -> str:
    """A number without the zeros that a round one does not need: 5.00 MB is 5 MB."""
    return re.sub(r"\.0+(?!\d)|(?<=\.\d)0+(?!\d)", "", text)


def moved_apart(heights: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
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


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes (left, top, right, bottom) share a point."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"


def _clean(raw: str, name: str, spoken: str, standalone: bool) -> str:
    """matplotlib's SVG as a part of a page: names made unique, fonts and colours left to the page, nothing unused."""
    root = ElementTree.fromstring(raw.split("?>", 1)[1].split(">", 1)[1])
    variables = {sentinel: f"var(--{variable})" for variable, sentinel in INK.items()}
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
