"""The drawings: real text, the page's colours, the same bytes each time, nothing foreign that acts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from pomona.examination.canvas import PALETTE, decimals, moved_apart, round_steps
from pomona.examination.plots import (
    _log_ticks,
    arm_variables,
    cost_plot,
    loss_plot,
    size_plot,
)
from pomona.examination.records import Arm, ReportData
from tests.examination.conftest import HOSTILE
from tests.examination.synthetic import report_data

Plot = Callable[[ReportData], str | None]
PLOTS: dict[str, Plot] = {
    "flops": lambda data: loss_plot(data, "flops"),
    "seconds": lambda data: loss_plot(data, "seconds"),
    "size": size_plot,
    "cost": cost_plot,
}


def drawn(plot: Plot, data: ReportData) -> tuple[str, ElementTree.Element]:
    text = plot(data)
    assert text is not None
    return text, ElementTree.fromstring(text)


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter() if element.tag.endswith("text")]


@pytest.mark.parametrize("name", PLOTS)
def test_same_data_same_bytes_without_a_date(name: str) -> None:
    """Catches random names, dates and versions in the file, which make every report differ from the last."""
    first, _ = drawn(PLOTS[name], report_data())
    second, _ = drawn(PLOTS[name], report_data())
    assert first == second
    assert "matplotlib" not in first.lower()
    assert "<metadata" not in first


@pytest.mark.parametrize("name", PLOTS)
def test_text_is_text_and_colours_are_the_pages(name: str) -> None:
    """Catches letters drawn as paths, a fixed font, a background, and colours that do not follow dark mode."""
    text, root = drawn(PLOTS[name], report_data())
    assert len(texts(root)) > 5
    assert "DejaVu" not in text
    assert "#0d0e" not in text
    coloured = 0
    for element in root.iter():
        for rule in element.get("style", "").split(";"):
            key, _, value = rule.partition(":")
            if key.strip() in ("fill", "stroke") and value.strip() != "none":
                assert value.strip().startswith("var(--"), (name, rule)
                coloured += 1
    assert coloured > 5


@pytest.mark.parametrize("name", PLOTS)
def test_hostile_names_stay_text(name: str) -> None:
    """Catches a name that ends its tag, is read as mathematics, or breaks the XML with a control character."""
    text, root = drawn(PLOTS[name], report_data(name=HOSTILE))
    assert {element.tag for element in root.iter()} <= {"svg", "g", "path", "defs", "use", "text", "clipPath", "rect"}
    assert not any(key.startswith("on") for element in root.iter() for key in element.attrib)
    assert "\x00" not in text
    assert "\u202e" not in text
    assert any("<" in shown or "alert" in shown for shown in texts(root))


def test_a_dollar_is_a_dollar() -> None:
    """Catches a name that is set as mathematics, or refused as wrong mathematics."""
    data = report_data()
    for name in ("$x_1$", r"$\frac$"):
        arms = (replace(data.arms[0], name=name), data.arms[1])
        _, root = drawn(PLOTS["flops"], replace(data, arms=arms, models=()))
        assert name in texts(root)


def test_drawings_on_one_page_share_no_name() -> None:
    """Catches a clip path of one drawing cutting another that stands in the same page."""
    names: list[str] = []
    for plot in PLOTS.values():
        _, root = drawn(plot, report_data())
        own = [element.get("id", "") for element in root.iter() if "id" in element.attrib]
        linked = {element.get("href", "").removeprefix("#") for element in root.iter() if "href" in element.attrib}
        assert linked <= set(own)
        names += own
    assert len(names) == len(set(names))


def test_a_file_of_its_own_brings_its_colours() -> None:
    """Catches a picture in a README that is black on black."""
    text = loss_plot(report_data(), "flops", standalone=True)
    assert text is not None
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("width") == "480"
    for pair in PALETTE.values():
        assert pair[0] in text
        assert pair[1] in text


def test_every_arm_and_every_mark_is_named() -> None:
    """Catches a curve without label, growth that is not marked, and a quantized model that is not shown."""
    _, root = drawn(PLOTS["flops"], report_data())
    shown = texts(root)
    for wanted in ("AdamW", "Conda, grown", "grow", "four_bit", "1.61", "1.63", "1.71"):
        assert wanted in shown


def test_what_no_budget_counts_is_said_so() -> None:
    """Catches a sweep that looks like a part of the baseline's cost, or is left out."""
    _, root = drawn(cost_plot, report_data())
    assert sum("not counted" in shown for shown in texts(root)) == 3


def test_nothing_to_draw() -> None:
    """Catches an empty frame, or a crash, where nothing was measured."""
    empty = ReportData("t", (Arm("r", "recipe", ()),))
    assert all(plot(empty) is None for plot in PLOTS.values())
    one = replace(report_data(), models=report_data().models[:1])
    assert size_plot(one) is None


def test_one_single_measurement_can_be_drawn() -> None:
    """Catches a division by the width of an axis that has none."""
    arm = report_data().arms[1]
    last = arm.stages[0].metrics[-1]
    single = replace(arm, stages=(replace(arm.stages[0], metrics=[last]),))
    _, root = drawn(PLOTS["seconds"], ReportData("t", (single,)))
    assert "AdamW" in texts(root)


def test_arms_of_one_role_differ_in_colour() -> None:
    """Catches two baselines that cannot be told apart."""
    arms = [Arm(name, "baseline", ()) for name in "ab"] + [Arm("c", "recipe", ())]
    assert arm_variables(arms) == {"a": "baseline", "b": "baseline-2", "c": "recipe"}


def test_labels_move_apart_and_stay_inside() -> None:
    """Catches labels on top of each other where lines end together."""
    placed = moved_apart([100.0, 101.0, 102.0], 30, 0, 300)
    assert placed[1] - placed[0] >= 29.9
    assert placed[2] - placed[1] >= 29.9
    assert moved_apart([10.0, 200.0], 30, 0, 300) == [10.0, 200.0]
    low = moved_apart([290.0, 299.0], 30, 0, 300)
    assert low[1] <= 300
    assert low[1] - low[0] >= 29.9


@pytest.mark.parametrize("start", [1e-3, 0.7, 40, 5e3, 3e7])
@pytest.mark.parametrize("span", [1.5, 8, 90, 5000])
def test_ticks_of_a_logarithmic_axis_are_few_and_inside(start: float, span: float) -> None:
    """Catches names printed over each other, and ticks outside of the axis."""
    for axis in ("flops", "seconds"):
        ticks = _log_ticks(start, start * span, axis)  # type: ignore[arg-type]
        assert len(ticks) <= 8
        assert all(start <= tick <= start * span for tick in ticks)


def test_steps_are_round_and_told_exactly() -> None:
    """Catches ticks such as 1.6666, and 1.25 that is shown as 1.2."""
    assert decimals([1.25, 1.5, 1.75]) == 2
    assert decimals([1.2, 1.4]) == 1
    assert decimals([1.0, 2.0]) == 0
    assert round_steps(1.55, 2.6, 5) == [1.6, 1.8, 2.0, 2.2, 2.4, 2.6]
    assert round_steps(0, 24.3e6, 5) == [0, 5e6, 10e6, 15e6, 20e6]
