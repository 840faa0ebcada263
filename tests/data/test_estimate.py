"""Guesses for plans: proportional to what is there, and none where nobody knows."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pomona.data.config import SourceConfig
from pomona.data.embedded import environment_files
from pomona.data.estimate import ENCODE, LEARN, SAMPLE_BYTES, START, estimate, tokenize_seconds


def test_files_count_by_their_size(tmp_path: Path) -> None:
    """Catches left-out files that are counted, files that are not, and compressed ones taken for what they are."""
    (tmp_path / "a.txt").write_text("x" * 1000)
    (tmp_path / "b.jsonl").write_text("y" * 500)
    (tmp_path / "c.bin").write_text("z" * 9000)
    source = SourceConfig(path=str(tmp_path))
    plain = estimate([source])
    assert plain is not None and plain.text_bytes == 1500
    twice = estimate([source, source])
    assert twice is not None and twice.core_seconds == pytest.approx(2 * plain.core_seconds)
    assert twice.corpus_seconds(1) - START == pytest.approx(2 * (twice.corpus_seconds(2) - START))
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"w" * 100, mtime=0))
    packed = estimate([source])
    assert packed is not None and packed.text_bytes == 1500 + 3 * (tmp_path / "d.txt.gz").stat().st_size


def test_documentation_is_a_part_of_the_code() -> None:
    """Catches source code that is taken for text, or text for source code."""
    size = sum(file.size for file in environment_files(SourceConfig(path="env:docs")))
    found = estimate([SourceConfig(path="env:docs")])
    assert found is not None and found.text_bytes == pytest.approx(0.2 * size)
    assert estimate([SourceConfig(path="env:docs"), SourceConfig(path="hub:somebody/texts")]) is None


def test_a_tokenizer_learns_from_a_sample() -> None:
    """Catches learning that grows with the corpus, or that is charged where a tokenizer is taken from elsewhere."""
    assert tokenize_seconds(8e6, train=False, workers=2) == pytest.approx(4e6 * ENCODE)
    assert tokenize_seconds(8e6, train=True, workers=2) == pytest.approx(8e6 * LEARN + 4e6 * ENCODE)
    learning = [tokenize_seconds(n, train=True) - tokenize_seconds(n, train=False) for n in (5e7, 5e9)]
    assert learning == pytest.approx([SAMPLE_BYTES * LEARN] * 2)
