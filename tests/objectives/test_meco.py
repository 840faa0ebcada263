"""MeCo: what is scored, what documents see, and when the metadata ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pomona import anatomy
from pomona.data import Corpus, CorpusConfig, Tokens, make_corpus, make_tokens, train_tokenizer
from pomona.data.packed import PackedStream
from pomona.engine.protocols import IGNORED
from pomona.ground.errors import ConfigError, DataError
from pomona.objectives import MecoConfig, NextToken
from pomona.objectives.meco import part_of
from tests.tiny import gpt2, llama


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """Forty documents from three hosts, a few words each, with a column `url`."""
    folder = tmp_path_factory.mktemp("meco")
    words = [f"word{number}" for number in range(30)]
    lines = []
    for number in range(40):
        text = " ".join(words[(number * 7 + place * (1 + number % 5)) % 30] for place in range(25 + number))
        host = ("en.tea.org", "docs.milk.io", "sugar.com")[number % 3]
        lines.append(f'{{"text": "{text} {number}", "url": "https://{host}/page/{number}"}}')
    (folder / "texts.jsonl").write_text("\n".join(lines))
    source = {"path": str(folder / "texts.jsonl"), "metadata": ["url"]}
    corpus: Corpus = make_corpus(
        CorpusConfig.parse({"sources": [source], "near_duplicates": None, "validation": 0.1}), folder / "corpus"
    )
    return make_tokens(corpus, train_tokenizer(corpus, vocab_size=300), folder / "tokens")


def stream(tokens: Tokens, steps: int = 20, **values: Any) -> PackedStream:
    config = MecoConfig.parse({"column": "url", **values})
    return config.stream(tokens, steps=steps, batch_size=4, seq_length=48, seed=0)


def texts_of(tokens: Tokens, batch: dict[str, Tensor]) -> list[str]:
    return [tokens.tokenizer.decode(row) for row in batch["tokens"]]


def test_parts_of_a_source() -> None:
    """Catches a path or a scheme that stays, and hashes that tell the name."""
    url = "http://docs.python.org/3/library"
    assert [part_of(url, part) for part in ("host", "domain", "suffix", "whole")] == [
        "docs.python.org", "python.org", "org", url]  # fmt: skip
    hashed = part_of(url, "hashed")
    assert hashed == part_of("docs.python.org", "hashed") != part_of("python.org", "hashed") and len(hashed) == 8
    assert part_of("scipy", "domain") == "scipy"


def test_rare_sources_are_unknown() -> None:
    """Catches a threshold that is off by one, and a document without metadata that stops the run."""
    config = MecoConfig.parse({"least": 2})
    assert config.values(["a", "a/b", "c", None]) == ["a", "a", "unknown", "unknown"]


def test_text_and_end_are_scored_and_nothing_else(tokens: Tokens) -> None:
    """Catches a label on BOS or metadata, and a first token of the text that is left out; the gradient through the
    metadata's labels is zero because there are none."""
    raw = stream(tokens).batch(0)[0]
    made = MecoConfig().build(tokens.tokenizer).prepare(raw)
    assert int((made["labels"] != IGNORED).sum()) == int((~raw["given"]).sum())
    counted = made["labels"] != IGNORED
    assert torch.equal(made["labels"][counted], raw["tokens"][:, 1:][~raw["given"][:, 1:]])
    for text in texts_of(tokens, raw):
        assert text.startswith("<|endoftext|>URL: ") and text.split("\n\n")[0].endswith((".org", ".io", ".com"))


def test_an_empty_template_is_next_token(tokens: Tokens) -> None:
    """Catches anything that happens beside the metadata: over the same sequences the losses are equal."""
    for values in ({"template": ""}, {"cooldown": 1.0}):
        raw = stream(tokens, **values).batch(2)[0]
        body, meco = anatomy.of(llama(vocab_size=320, max_position_embeddings=64)), MecoConfig().build(tokens.tokenizer)
        assert raw["given"].sum() < raw["given"].numel() / 4
        plain = {name: raw[name] for name in ("tokens", "documents")}
        ours, theirs = meco(body, meco.prepare(raw)), NextToken()(body, NextToken().prepare(plain))
        filler = int((NextToken().prepare(plain)["labels"] != IGNORED).sum()) - int(ours.targets)
        assert filler == 0
        assert torch.equal(ours.total, theirs.total)


@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
def test_documents_do_not_see_each_other(tokens: Tokens, make: Any) -> None:
    """Catches attention across documents, and positions that count the document before: the hidden states of a document
    do not change when the one before it in the sequence does."""
    sizes = {"max_position_embeddings": 64} if make is llama else {"n_positions": 64}
    body = anatomy.of(make(vocab_size=320, **sizes).eval())
    meco, seen = MecoConfig().build(tokens.tokenizer), 0
    for step in range(4):
        made = meco.prepare(stream(tokens).batch(step)[0])
        starts = made["position_ids"] == 0
        for row in range(len(starts)):
            places = starts[row].nonzero().squeeze(1)
            if len(places) < 2:
                continue
            ids, at = made["input_ids"][row : row + 1], int(places[1])
            other = ids.clone()
            other[:, :at] = (other[:, :at] + 1) % 300
            positions = made["position_ids"][row : row + 1]
            with torch.no_grad():
                one, two = (body.hidden(input_ids=each, position_ids=positions) for each in (ids, other))
            torch.testing.assert_close(one[:, at:], two[:, at:])
            assert not torch.allclose(one[:, :at], two[:, :at])
            seen += 1
    assert seen


def test_the_last_tenth_is_plain_and_new(tokens: Tokens) -> None:
    """Catches metadata in the cool-down, a switch at the wrong step, and documents that both phases read."""
    phased = stream(tokens, steps=20, cooldown=0.25)
    lines = ["URL: " in text for step in range(20) for text in texts_of(tokens, phased.batch(step)[0])]
    assert lines == [True] * 4 * 15 + [False] * 4 * 5
    read = [{segment.document for window in range(len(packed)) for segment in packed.segments(window)}
            for _, packed in phased.phases]  # fmt: skip
    assert not read[0] & read[1] and 0 < len(read[1]) < len(read[0])
    assert [len(stream(tokens, cooldown=share).phases) for share in (0.0, 1.0)] == [1, 1]
    assert "URL: " not in "".join(texts_of(tokens, stream(tokens, cooldown=1.0).batch(0)[0]))


def test_some_documents_go_without(tokens: Tokens) -> None:
    """Catches a probability that is not heard."""
    texts = "".join(text for step in range(8) for text in texts_of(tokens, stream(tokens, drop=1.0).batch(step)[0]))
    assert "URL: " not in texts
    some = stream(tokens, drop=0.5, cooldown=0.0)
    ((_, packed),) = some.phases
    read = {segment.document for window in range(len(packed)) for segment in packed.segments(window)}
    marked = {document: len(packed.prefix(document)) > 1 for document in read}
    assert 0.3 < sum(marked.values()) / len(marked) < 0.7


def test_the_prefix_at_inference_is_that_of_training(tokens: Tokens) -> None:
    """Catches BOS after the line, or none."""
    config = MecoConfig.parse({"column": "url"})
    raw = stream(tokens).batch(0)[0]
    for row in raw["tokens"].tolist():
        host = tokens.tokenizer.decode(row).split("URL: ")[1].split("\n")[0]
        given = config.given(host, tokens.tokenizer)
        assert row[: len(given)] == given


def test_refusals(tokens: Tokens) -> None:
    """Catches compute spent on metadata that is not there."""
    with pytest.raises(DataError, match="did you mean 'url'"):
        stream(tokens, column="urls")
    with pytest.raises(ConfigError, match="no other braces"):
        MecoConfig.parse({"template": "{host}"})
    bare: Any = SimpleNamespace(bos_token_id=None, eos_token_id=None, sep_token_id=None, all_special_tokens=[])
    with pytest.raises(ConfigError, match="eos_token"):
        MecoConfig().build(bare)


def test_tokens_of_an_earlier_version(tokens: Tokens, tmp_path: Path) -> None:
    """Catches a traceback where a way out belongs."""
    old = Tokens(tmp_path, {**tokens.facts, "shards": {"train": [], "validation": []}})
    with pytest.raises(DataError, match="tokenize the corpus again"):
        old.metadata("train", "url")
