"""Token shards and the folder that holds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona.data import Corpus, Tokens, make_tokens, train_tokenizer
from pomona.data.shards import Shard, read_facts, token_type, write_shard
from pomona.data.tokens import Split, TokenArray
from pomona.ground.errors import ConfigError, DamagedArtefact, DataError


@pytest.mark.parametrize("vocab_size", [65_536, 65_537])
def test_a_shard_gives_back_what_was_written(tmp_path: Path, vocab_size: int) -> None:
    """Catches a wrong layout and ids that do not fit the type."""
    tokens = np.array([0, 5, vocab_size - 1, 7], dtype=token_type(vocab_size))
    facts = write_shard(tmp_path, "train-00000", tokens, np.array([3, 1], dtype="<u4"), 11)
    shard = Shard(tmp_path, facts)
    assert shard.is_intact() and read_facts(shard.path) == facts
    assert shard.tokens.tolist() == tokens.tolist() and shard.lengths.tolist() == [3, 1]
    assert shard.path.stat().st_size == facts.file_bytes == 32 + 8 + 4 * tokens.dtype.itemsize


def test_the_same_content_has_the_same_name(tmp_path: Path) -> None:
    """Catches names that depend on anything but the content."""
    lengths = np.array([2], dtype="<u4")
    names = [
        write_shard(tmp_path, "s", np.array(ids, dtype="<u2"), lengths, 2).name for ids in ([1, 2], [1, 2], [1, 3])
    ]
    assert names[0] == names[1] != names[2]


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6), start=st.integers(0, 40), count=st.integers(1, 60))
def test_shards_read_as_one_ring(sizes: list[int], start: int, count: int) -> None:
    """Catches reads that lose or repeat a token at the edge of a shard or of the ring."""
    whole = np.arange(sum(sizes))
    array = TokenArray(np.split(whole, np.cumsum(sizes)[:-1]), whole.dtype)
    assert len(array) == len(whole) and np.array_equal(np.asarray(array), whole)
    assert np.array_equal(array[start : start + count], whole[start : start + count])
    assert np.array_equal(array[::2], whole[::2]) and np.array_equal(array[::-1], whole[::-1])
    if len(whole):
        start %= len(whole)
        assert array.read(start, count).tolist() == [(start + step) % len(whole) for step in range(count)]
        assert array[start] == whole[start] and array[-1] == whole[-1]
    with pytest.raises(IndexError, match=f"token {len(whole)} of {len(whole)}"):
        array[len(whole)]


def test_documents_begin_where_they_were_put() -> None:
    """Catches starts that are shifted by one document."""
    split = Split.of([[1, 2], [3], [4, 5, 6]])
    assert split.document_starts.tolist() == [0, 2, 3]
    assert split.documents_at(1, 4).tolist() == [0, 1, 2, 2]
    assert split.documents_at(5, 4).tolist() == [0, 1, 1, 2]


@pytest.fixture(scope="module")
def folder(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder of several shards."""
    tokenizer = train_tokenizer(corpus, vocab_size=400)
    return make_tokens(corpus, tokenizer, tmp_path_factory.mktemp("made") / "tokens", shard_tokens=1000).folder


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    import shutil

    return Path(shutil.copytree(folder, tmp_path / "tokens"))


def test_opening_reads_nothing_but_the_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an open that maps, hashes or loads shards, or imports transformers."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a shard was read")

    monkeypatch.setattr(np, "memmap", fail)
    tokens = Tokens.open(folder)
    assert tokens.train.count > 0 and tokens.train.bytes > 0 and tokens.vocab_size == 400


def test_a_damaged_shard_is_named_before_its_tokens_are_used(copied: Path) -> None:
    """Catches a flipped bit that goes unnoticed, and an error that does not say which file."""
    path = sorted(copied.glob("train-*.tokens"))[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    tokens = Tokens.open(copied)
    with pytest.raises(DamagedArtefact, match=path.name):
        tokens.train.tokens[:]
    with pytest.raises(DamagedArtefact, match=rf"{path.name}; \d+ other shards are intact"):
        tokens.verify()
    assert len(Tokens.open(copied, check=False).train.tokens[:]) == tokens.train.count


@pytest.mark.parametrize("how", ["short", "missing"])
def test_a_truncated_or_missing_shard_is_named_at_once(copied: Path, how: str) -> None:
    """Catches a file that is cut off, found only when training gets there."""
    path = sorted(copied.glob("train-*.tokens"))[2]
    if how == "short":
        path.write_bytes(path.read_bytes()[:-2])
    else:
        path.unlink()
    with pytest.raises(DamagedArtefact, match=rf"{path.name}; \d+ other shards are intact"):
        Tokens.open(copied)


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    """Catches a half-made folder that is taken for a finished one."""
    with pytest.raises(DamagedArtefact, match="not a finished"):
        Tokens.open(tmp_path)


def test_a_model_with_too_few_embeddings_is_refused(folder: Path) -> None:
    """Catches an index error in the middle of the first batch."""
    tokens = Tokens.open(folder)
    tokens.require_vocabulary(400)
    with pytest.raises(ConfigError, match=r"at least 400 tokens(.|\n)*399 embeddings"):
        tokens.require_vocabulary(399)


def test_a_split_that_is_too_small_is_refused(folder: Path) -> None:
    """Catches a missing validation split that shows only at the first evaluation."""
    tokens = Tokens.open(folder)
    assert tokens.require_split("validation", 10) is tokens.validation
    with pytest.raises(DataError, match="train split is too small"):
        tokens.require_split("train", 10**9)
