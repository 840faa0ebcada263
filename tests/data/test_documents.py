"""Tidying and cutting texts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pomona.data.documents import cut, tidy


def test_tidy_by_hand() -> None:
    """Catches line ends, trailing spaces, NUL and runs of empty lines that stay."""
    assert tidy("\ufeff\n\na  \r\nb\0\t\r\r\n\n\n\n  c\n\n") == "a\nb\n\n\n  c"


@given(st.text(alphabet=" \t\n\r\0ab"))
def test_tidy_is_done_after_one_pass(text: str) -> None:
    """Catches a rule that undoes another one, so that copies would differ."""
    assert tidy(tidy(text)) == tidy(text)


@given(text=st.text(alphabet="aé🙂\n ", max_size=300).map(tidy), size=st.integers(8, 64))
def test_pieces_fit_and_lose_nothing_but_line_ends(text: str, size: int) -> None:
    """Catches pieces above the limit, broken characters and lost text."""
    pieces = list(cut(text, size))
    assert all(len(piece.encode()) <= size for piece in pieces)
    assert "".join(pieces).replace("\n", "") == text.replace("\n", "")


def test_a_blank_line_is_the_preferred_place() -> None:
    """Catches paragraphs that are cut in two although they need not be."""
    assert list(cut("one two\nthree\n\nfour five\nsix", 20)) == ["one two\nthree", "four five\nsix"]
