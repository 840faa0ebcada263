"""Part of a corpus as a corpus: exactly the tokens asked for, with their documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pomona.data import Corpus, CorpusConfig, Tokens, make_corpus, make_tokens, train_tokenizer
from pomona.data.subset import joined, pieces_of, write_subset
from pomona.data.tokens import Split
from pomona.ground.files import write_manifest


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    folder = tmp_path_factory.mktemp("subset")
    for number in range(60):
        (folder / f"{number}.txt").write_text(
            " ".join(f"w{(number * 13 + place) % 97}" for place in range(40 + number))
        )
    config = CorpusConfig.parse({"sources": [f"{folder}/*.txt"], "near_duplicates": None, "validation": 0.1})
    corpus: Corpus = make_corpus(config, folder / "corpus")
    return make_tokens(corpus, train_tokenizer(corpus, vocab_size=300), folder / "tokens", shard_tokens=2000)


def subset(tokens: Tokens, spans: list[tuple[int, int]], folder: Path) -> Tokens:
    folder.mkdir()
    write_manifest(folder, write_subset(tokens, spans, folder))
    return Tokens.open(folder)


def test_spans_that_touch_are_one() -> None:
    """Catches a document that is cut where two kept chunks meet."""
    assert list(joined([(0, 3), (3, 2), (7, 1), (8, 4), (20, 1)])) == [(0, 5), (7, 5), (20, 1)]
    assert list(joined([])) == []


def test_documents_within_spans() -> None:
    """Catches starts that are off by one, and a start at the edge of a span that is counted twice."""
    split = Split.of([[1] * 4, [2] * 3, [3] * 5])
    assert list(pieces_of(split, [(0, 12)])) == [(0, 4), (4, 3), (7, 5)]
    assert list(pieces_of(split, [(2, 2), (4, 4)])) == [(2, 2), (4, 3), (7, 1)]
    assert list(pieces_of(split, [(5, 2), (8, 4)])) == [(5, 2), (8, 4)]


def test_all_of_it_is_the_same_corpus(tokens: Tokens, tmp_path: Path) -> None:
    """Catches tokens, documents or bytes that change on the way."""
    chunks = [(start, min(50, tokens.train.count - start)) for start in range(0, tokens.train.count, 50)]
    whole = subset(tokens, chunks, tmp_path / "whole")
    for name in ("train", "validation"):
        ours, theirs = getattr(whole, name), getattr(tokens, name)
        assert np.array_equal(np.asarray(ours.tokens), np.asarray(theirs.tokens)) and ours.bytes == theirs.bytes
        assert np.array_equal(ours.document_starts, theirs.document_starts)
    whole.verify()
    assert whole.vocab_size == tokens.vocab_size and len(whole.tokenizer) == len(tokens.tokenizer)
    assert whole.facts["tokenizer"] == tokens.facts["tokenizer"]


def test_some_of_it(tokens: Tokens, tmp_path: Path) -> None:
    """Catches the wrong stretch, and bytes of text that is not there."""
    some = subset(tokens, [(10, 40), (100, 25), (1990, 30)], tmp_path / "some")
    wanted = np.concatenate([tokens.train.tokens[10:50], tokens.train.tokens[100:125], tokens.train.tokens[1990:2020]])
    assert np.array_equal(np.asarray(some.train.tokens), wanted)
    assert some.train.bytes == int(tokens.token_bytes[wanted.astype(np.int64)].sum())
    assert {0, 40, 65} <= set(some.train.document_starts.tolist())
