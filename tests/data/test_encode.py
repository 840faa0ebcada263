"""From a corpus to token shards."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pomona.data import Corpus, Tokens, encode, make_tokens, train_tokenizer
from pomona.ground.errors import ConfigError, FolderBusy
from pomona.ground.files import folder_lock

SHARD_TOKENS = 1000


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Any:
    return train_tokenizer(corpus, vocab_size=400)


@pytest.fixture(scope="module")
def tokens(corpus: Corpus, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return make_tokens(corpus, tokenizer, tmp_path_factory.mktemp("made") / "tokens", shard_tokens=SHARD_TOKENS)


def content(folder: Path) -> dict[str, bytes]:
    """Every file and its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_tokens_are_the_documents_each_with_its_end(corpus: Corpus, tokens: Tokens) -> None:
    """Catches lost or reordered documents, a missing end token and wrong counts."""
    for name, split in (("train", tokens.train), ("validation", tokens.validation)):
        documents = list(corpus.documents(name))
        starts = [*split.document_starts.tolist(), split.count]
        assert len(starts) == len(documents) + 1
        for document, start, end in zip(documents, starts, starts[1:], strict=False):
            ids = split.tokens[start:end].tolist()
            assert ids[-1] == tokens.tokenizer.eos_token_id
            assert tokens.tokenizer.decode(ids[:-1]) == document.text
    assert len(tokens.facts["shards"]["train"]) > 2


def test_bytes_of_tokens_add_up_to_the_bytes_of_the_text(corpus: Corpus, tokens: Tokens) -> None:
    """Catches bits per byte that are off: the base must be the exact number of UTF-8 bytes."""
    for name, split in (("train", tokens.train), ("validation", tokens.validation)):
        exact = sum(len(document.text.encode()) for document in corpus.documents(name))
        assert tokens.token_bytes[split.tokens[:]].sum() == split.bytes == exact == corpus.bytes(name)


def test_workers_and_repetitions_change_nothing(corpus: Corpus, tokenizer: Any, tokens: Tokens, tmp_path: Path) -> None:
    """Catches shards that depend on which thread was faster."""
    again = make_tokens(corpus, tokenizer, tmp_path / "again", shard_tokens=SHARD_TOKENS, workers=1)
    assert content(again.folder) == content(tokens.folder)


def test_an_interrupted_call_goes_on_and_ends_with_the_same_bytes(
    corpus: Corpus, tokenizer: Any, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches finished shards that are made again, damaged leftovers that are kept, and a different result."""
    write, calls = encode.write_shard, []

    def stop_at_third(*arguments: Any) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments[1])
        return write(*arguments)

    monkeypatch.setattr(encode, "write_shard", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        make_tokens(corpus, tokenizer, tmp_path / "tokens", shard_tokens=SHARD_TOKENS, workers=1)
    assert not (tmp_path / "tokens").exists()
    (unfinished,) = tmp_path.glob(".tokens.*.unfinished")
    first, second = sorted(unfinished.glob("*.tokens"))
    second.write_bytes(second.read_bytes()[:-1])
    (unfinished / f".{first.name}.abc.part").write_bytes(b"half")

    made: list[str] = []
    monkeypatch.setattr(encode, "write_shard", lambda *arguments: made.append(arguments[1]) or write(*arguments))
    again = make_tokens(corpus, tokenizer, tmp_path / "tokens", shard_tokens=SHARD_TOKENS, workers=1)
    assert calls[0] not in made and calls[1] in made
    assert content(again.folder) == content(tokens.folder)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_killed_process_leaves_what_the_next_one_needs(
    corpus: Corpus, tokenizer: Any, tokens: Tokens, tmp_path: Path
) -> None:
    """Catches a state that only a clean exit can leave in order."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    program = f"""
import time
from transformers import AutoTokenizer
from pomona.data import Corpus, encode
write = encode.write_shard
def slowly(*arguments):
    time.sleep(0.3)
    return write(*arguments)
encode.write_shard = slowly
encode.make_tokens(Corpus.open({str(corpus.folder)!r}), AutoTokenizer.from_pretrained({str(tmp_path / "tokenizer")!r}),
    {str(tmp_path / "tokens")!r}, shard_tokens={SHARD_TOKENS}, workers=1)
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    while not list(tmp_path.glob(".tokens.*.unfinished/*.tokens")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = make_tokens(corpus, tokenizer, tmp_path / "tokens", shard_tokens=SHARD_TOKENS)
    assert content(again.folder) == content(tokens.folder)


def test_made_tokens_are_reused_and_only_damaged_shards_made_again(
    corpus: Corpus, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches work that is repeated, and a remedy in an error message that does not help."""
    made: list[str] = []
    write = encode.write_shard
    monkeypatch.setattr(encode, "write_shard", lambda *arguments: made.append(arguments[1]) or write(*arguments))

    def make() -> Tokens:
        made.clear()
        return make_tokens(corpus, tokenizer, tmp_path / "tokens", shard_tokens=SHARD_TOKENS)

    before = content(make().folder)
    assert len(make().facts["shards"]["train"]) > 2 and not made
    path = sorted((tmp_path / "tokens").glob("train-*.tokens"))[1]
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert content(make().folder) == before
    assert made == ["train-00001"]


def test_another_tokenizer_replaces_the_tokens(corpus: Corpus, tokenizer: Any, tmp_path: Path) -> None:
    """Catches tokens of an earlier vocabulary that are taken for those that were asked for."""
    make_tokens(corpus, tokenizer, tmp_path / "tokens")
    other = make_tokens(corpus, train_tokenizer(corpus, vocab_size=300), tmp_path / "tokens")
    assert other.vocab_size == 300 and other.train.tokens[:].max() < 300


def test_text_that_spells_a_special_token_stays_text(tokenizer: Any) -> None:
    """Catches documents that could end themselves, or each other."""
    (ids,) = encode.encoder(tokenizer)(["a <|endoftext|> b"])
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids) == "a <|endoftext|> b"
    assert tokenizer("<|endoftext|>")["input_ids"] == [tokenizer.eos_token_id]


def test_a_second_process_is_refused(corpus: Corpus, tokenizer: Any, tmp_path: Path) -> None:
    """Catches two processes that write the same shards."""
    make_tokens(corpus, tokenizer, tmp_path / "tokens")
    (tmp_path / "tokens").rename(tmp_path / "elsewhere")
    facts = Tokens.open(tmp_path / "elsewhere").facts
    plan = {name: facts[name] for name in ("format", "corpus", "tokenizer", "shard_tokens")}
    with (
        folder_lock(tmp_path / f".tokens.{encode.content_hash(plan)}.unfinished"),
        pytest.raises(FolderBusy),
    ):
        make_tokens(corpus, tokenizer, tmp_path / "tokens")


def test_ids_outside_the_vocabulary_are_refused() -> None:
    """Catches a tokenizer whose ids would index no embedding."""
    with pytest.raises(ConfigError, match=r"ids below 5(.|\n)*id of 9"):
        encode._encode_documents(["x"], lambda texts: [[9] for _ in texts], 0, 5, np.dtype("<u2"))
