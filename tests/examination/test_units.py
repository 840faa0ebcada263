"""Numbers as a reader sees them, and foreign text made visible."""

from __future__ import annotations

import pytest

from pomona.examination.units import (
    GAP,
    MINUS,
    SPACE,
    count,
    data_size,
    duration,
    fixed,
    flops,
    number,
    percent,
    shorten,
    signed,
    visible,
)


def spaced(text: str) -> str:
    return text.replace(SPACE, " ").replace(GAP, " ").replace(MINUS, "-")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (999.6, "1.00 k"), (1234, "1.23 k"), (5_868_000, "5.87 M"), (2.5, "2.50")],
)
def test_count_has_three_digits_and_a_prefix(value: float, text: str) -> None:
    """Catches a prefix chosen before rounding: 999.6 must not become 1,000."""
    assert spaced(count(value)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0004, "0 s"),
        (0.85, "850 ms"),
        (0.9996, "1.0 s"),
        (4.24, "4.2 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
    ],
)
def test_duration_reads_like_speech(seconds: float, text: str) -> None:
    """Catches "60 s", "1 min 60 s" and other seams between the units."""
    assert spaced(duration(seconds)) == text


def test_units_are_decimal_and_named() -> None:
    """Catches powers of 1024 under decimal names, and a lost unit."""
    assert spaced(data_size(23_456_789)) == "23.5 MB"
    assert spaced(flops(1.54e15)) == "1.54 PFLOP"
    assert spaced(flops(3.2e22)) == "32.0 ZFLOP"
    assert spaced(percent(0.0526)) == "5.3 %"


def test_signs_are_typographic_and_zero_has_none() -> None:
    """Catches "-0.000" and "+0.00" for a change that rounds to nothing."""
    assert signed(-0.0561, 3) == f"{MINUS}0.056"
    assert signed(0.2, 2) == "+0.20"
    assert signed(-0.00001, 3) == "0.000"
    assert signed(0.0, 2) == "0.00"
    assert fixed(-1.5, 1) == f"{MINUS}1.5"


def test_what_is_not_finite_is_said() -> None:
    """Catches "nan" or an OverflowError where a run diverged."""
    for show in (count, duration, flops, number, percent):
        assert show(float("nan")).startswith("not finite")
        assert show(float("inf")).startswith("not finite")


def test_visible_shows_what_acts() -> None:
    """Catches control sequences, direction marks, lone surrogates and non-characters that reach a page or terminal."""
    hostile = "a\x00b\x1b[31m\x7f\x85\u202egnp\u2066\u200f\ufeff\u2028\ud800\ufffec"
    shown = visible(hostile)
    assert shown == ("a\u2400b\u241b[31m\u2421⟨U+0085⟩⟨U+202E⟩gnp⟨U+2066⟩⟨U+200F⟩⟨U+FEFF⟩⟨U+2028⟩\ufffd\ufffdc")
    shown.encode()
    assert visible("שלום 漢字 é 🙂") == "שלום 漢字 é 🙂"


def test_visible_keeps_lines_only_when_asked() -> None:
    """Catches a name that breaks a table's row, and a sample that loses its lines."""
    assert visible("a\n\tb\r") == "a  b "
    assert visible("a\n\tb\r", lines=True) == "a\n\tb "


def test_shorten_keeps_both_ends() -> None:
    """Catches two long names that differ in their last letters and look the same when cut."""
    assert shorten("a" * 10, 10) == "a" * 10
    cut = shorten("abcdefghijklmnopqrstuvwxyz", 10)
    assert len(cut) == 10
    assert cut.startswith("abc")
    assert cut.endswith("xyz")
