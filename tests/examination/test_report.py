"""The page: complete, self-contained, and with nothing foreign that acts."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pomona.examination.records import Arm, ReportData
from pomona.examination.report import report_html, write_report
from pomona.examination.units import visible
from pomona.ground.errors import ConfigError
from tests.examination.conftest import HOSTILE
from tests.examination.synthetic import RECIPE, report_data

VOID = {"meta", "link", "br", "col"}
TAGS = {
    *("html", "head", "meta", "link", "title", "style", "body", "main", "header", "section", "article", "div"),
    *("h1", "h2", "h3", "h4", "p", "ul", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td"),
    *("small", "bdi", "i", "br", "code", "pre"),
    *("svg", "g", "path", "defs", "use", "text", "clippath", "rect"),
}


class Page(HTMLParser):
    """Tags, attributes and text, and whether every tag is closed in its order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.wrong: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def test_page_is_well_formed_and_complete() -> None:
    """Catches a section that is left out, and markup that only a forgiving browser reads."""
    page = Page(report_html(report_data()))
    assert page.wrong == []
    assert page.open == []
    assert page.tags <= TAGS
    for wanted in (
        "At equal compute",
        "Conda, grown (recipe)",
        "AdamW (baseline)",
        "g-stack: 3 blocks to 6",
        "optimizer: ",
        "Counted in no budget",
        "3.2\u00d7 smaller",
        "signatures",
        "Sampled at temperature 0.8, seed 0".lower(),
        "Return the indices of the elements that are",
        RECIPE.splitlines()[0],
        "9f2c1e77a0b84d15",
        "AMD EPYC 9B45",
        "make demo",
        "One seed per arm",
    ):
        assert wanted in page.text, wanted


def test_page_asks_nobody_for_anything() -> None:
    """Catches a font, script or image that comes from elsewhere, and a page that would allow one."""
    html = report_html(report_data())
    page = Page(html)
    for tag, key, value in page.attributes:
        assert not key.startswith("on")
        if key in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert value.startswith(("#", "data:,")), (tag, key, value)
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", html))
    policy = next(v for t, k, v in page.attributes if t == "meta" and k == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    assert "script" not in page.tags


def test_hostile_strings_are_shown_and_do_nothing() -> None:
    """Catches one forgotten escape anywhere: names, notes, samples, prompts, recipe, facts, versions, folders."""
    html = report_html(report_data(name=HOSTILE))
    page = Page(html)
    assert page.wrong == []
    assert page.open == []
    assert page.tags <= TAGS
    assert not any(key.startswith("on") for _, key, _ in page.attributes)
    for forbidden in ("\x00", "\x1b", "\u202e"):
        assert forbidden not in html
    html.encode()
    assert page.text.count(visible(HOSTILE)) >= 12
    classes = {value for _, key, value in page.attributes if key == "class"}
    assert all(re.fullmatch(r"[a-z ]*", value) for value in classes)


def test_every_hostile_field_alone() -> None:
    """Catches a field that only reaches the page when another one is absent."""
    data = report_data()
    row = replace(data.models[0], name=HOSTILE, form=HOSTILE, decoded_by=HOSTILE, arm=HOSTILE, folder=HOSTILE)
    sample = replace(data.samples[0], mode=HOSTILE, continuations={HOSTILE: HOSTILE})
    nested = {HOSTILE: {HOSTILE: [HOSTILE, 1]}, "truth": True, "none": None}
    page = Page(
        report_html(
            replace(
                data,
                models=(row, *data.models[1:]),
                samples=(sample,),
                corpus=nested,
                notes=(HOSTILE,),
                reproduce=(HOSTILE,),
            )
        )
    )
    assert page.wrong == []
    assert page.tags <= TAGS


def test_columns_that_nothing_fills_are_left_out() -> None:
    """Catches an empty column of decoding speeds that were never measured."""
    data = report_data()
    assert "Tokens per second" in Page(report_html(data)).text
    rows = tuple(replace(row, decode_tokens_per_second=None) for row in data.models)
    assert "Tokens per second" not in Page(report_html(replace(data, models=rows))).text


def test_two_measures_of_one_model_are_explained() -> None:
    """Catches a headline and a curve that differ without a word why."""
    data = report_data()
    assert "differ a little" not in Page(report_html(data)).text
    for arm in data.arms:
        for stage in arm.stages:
            for line in stage.metrics:
                if "validation" in line:
                    line["validation"]["tokens"] = 32_768
    assert "the first 32.8\u202fk held-out tokens" in Page(report_html(data)).text


def test_same_data_same_bytes(tmp_path: Path) -> None:
    """Catches dates, set order and random names: a report must be comparable with the one before."""
    write_report(tmp_path / "a.html", report_data())
    write_report(tmp_path / "b" / "c.html", report_data())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b" / "c.html").read_bytes()


def test_a_report_of_almost_nothing() -> None:
    """Catches a section that cannot be left out."""
    page = Page(report_html(ReportData("empty", (Arm("r", "recipe", ()),))))
    assert page.wrong == []
    assert "nothing is claimed" in page.text
    assert "table" not in page.tags
    page = Page(report_html(ReportData("none", ())))
    assert "holds no recipe" in page.text


def test_names_must_tell_things_apart() -> None:
    """Catches two lines of one name, of which a reader could not say which is which."""
    data = report_data()
    with pytest.raises(ConfigError, match="two arms of a report share a name"):
        report_html(replace(data, arms=(data.arms[0], data.arms[0])))
    with pytest.raises(ConfigError, match="two models"):
        report_html(replace(data, models=(data.models[0], data.models[0])))


def test_a_recipe_that_lost_says_so() -> None:
    """Catches a report that only knows how to praise."""
    page = Page(report_html(report_data(recipe_end=4.4)))
    assert "the recipe loses by" in page.text
    assert "The baseline has the recipe's final quality after" in page.text


def test_paper_dark_and_narrow_are_in_the_style() -> None:
    """Catches a style that lost one of its audiences or kept a placeholder."""
    html = report_html(report_data())
    for wanted in ("prefers-color-scheme: dark", "@media print", "@media (max-width", "tabular-nums", "system-ui"):
        assert wanted in html
    assert "/*" not in html
    assert "FONT" not in html
