"""The report in a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from pomona.examination.summary import print_summary
from tests.examination.conftest import HOSTILE
from tests.examination.synthetic import report_data


def printed(width: int, name: str = "") -> str:
    stream = io.StringIO()
    print_summary(report_data(name=name), Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def test_numbers_survive_a_narrow_terminal() -> None:
    """Catches a table that cuts a number to fit a name."""
    lines = printed(80, name=" with a very long name that leaves no room at all").splitlines()
    assert all(len(line) <= 80 for line in lines)
    text = "\n".join(lines)
    assert "better by 0.10" in text
    for number in (
        "46.0\u202fTFLOP",
        "2\u202fmin\xa038\u202fs",
        "2.30\u202fGB",
        "1.714",
        "\u22120.566",
        "1,163",
        "20.1\u202f%",
    ):
        assert number in text, number


def test_names_are_neither_markup_nor_control_sequences() -> None:
    """Catches a name that colours, moves or clears the terminal, or that rich takes for a style."""
    text = printed(200, name=HOSTILE + "[bold]x[/bold][link=http://a]y[/link]")
    assert "\x1b" not in text
    assert "\x00" not in text
    assert "\u202e" not in text
    assert "[/link]" in text
