"""Lists fit a terminal and hide nothing; a planned method is shown for what it is."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from pomona.catalog import Row, rows
from pomona.cli import show
from pomona.ground.errors import ConfigError

PLANNED = Row(
    slug="espalier",
    title="Espalier: Training Along a Wall",
    kind="recipe",
    modality=("series", "tables"),
    year=2031,
    arxiv="3101.00001",
    implements=None,
    summary="Bind the branches to a frame.",
    origin="published",
)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a function of `show` writes on a terminal of 100 columns, with one more method planned."""
    known = (*rows(), PLANNED)
    monkeypatch.setattr("pomona.catalog.listing.rows", lambda: known)

    def call(function: Callable[..., None], *words: str, **options: object) -> str:
        file = StringIO()
        monkeypatch.setattr(show, "output", lambda: Console(file=file, width=100))
        function(*words, **options)
        return file.getvalue()

    return call


def test_methods_fit_a_terminal(printed: Callable[..., str]) -> None:
    """Catches slugs cut off by a narrow column, and rows that are not listed."""
    text = printed(show.print_methods, every=True)
    assert max(map(len, text.splitlines())) <= 100 and "…" not in text
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("  ") and line[2] != " "}
    assert listed == {row.slug for row in rows()} | {"espalier"}


def test_planned_methods_are_counted_and_listed_when_asked_for(printed: Callable[..., str]) -> None:
    """Catches planned methods among those that can be used, or left out of the count."""
    planned = sum(row.status == "planned" for row in rows()) + 1
    usual = printed(show.print_methods)
    assert "espalier" not in usual and f", {planned} planned; --all lists" in usual
    alone = printed(show.print_methods, status="planned")
    assert "espalier" in alone and "adamw" not in alone and alone.rstrip().endswith(f"\n{planned} planned")
    assert "espalier" not in printed(show.print_methods, status="built")


def test_filters(printed: Callable[..., str]) -> None:
    """Catches a filter that is ignored, and `any` not counting as every kind of data."""
    for words, there, absent in (
        ({"kind": "recipe"}, "espalier", "adamw"),
        ({"modality": "tables"}, "espalier", "span-corruption"),
        ({"modality": "tables"}, "adamw", "masked-lm"),
        ({"stage": "grow"}, "g-stack", "espalier"),
    ):
        text = printed(show.print_methods, every=True, **words)
        assert there in text and absent not in text, words
    for words, message in (
        ({"kind": "recip"}, "unknown kind 'recip'\n.*'recipe'"),
        ({"stage": "growth"}, "unknown stage 'growth'\n.*'grow'"),
        ({"modality": "texts"}, "unknown modality 'texts'\n.*'text'"),
        ({"status": "build"}, "unknown status 'build'\n.*'built'"),
    ):
        with pytest.raises(ConfigError, match=message):
            printed(show.print_methods, **words)


def test_card_of_a_planned_method(printed: Callable[..., str]) -> None:
    """Catches a traceback for a method without a module, and a card that promises one."""
    text = printed(show.print_card, "espalier")
    assert "espalier (recipe) planned" in text and "not built yet" in text
    assert PLANNED.title in text and "arXiv:3101.00001" in text and PLANNED.summary in text
    assert "stages: none, it stands alone; data: series, tables" in text
