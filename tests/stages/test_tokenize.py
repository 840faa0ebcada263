"""One tokenizer for several corpora, and what cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona.data import Tokens
from pomona.ground.errors import ConfigError
from pomona.stages import load, run


def recipe(texts: Path, **second: object) -> dict[str, object]:
    """Two corpora, the second one in tokens that `second` says."""
    sources = {"sources": [str(texts)], "validation": 0.2}
    return {
        "name": "two",
        "stages": [
            {"corpus": {"name": "first", **sources}},
            {"tokenize": {"name": "first-tokens", "vocab_size": 300}},
            {"corpus": {"name": "second", **sources, "min_bytes": 200}},
            {"tokenize": {"name": "second-tokens", **second}},
        ],
    }


def test_a_second_corpus_in_the_tokens_of_the_first(texts: Path, tmp_path: Path) -> None:
    """Catches a tokenizer that is trained anew, and the first corpus taken for the second."""
    made = run(recipe(texts, like="first-tokens"), out=tmp_path)
    first, second = (Tokens.open(made[f"{name}-tokens"].folder) for name in ("first", "second"))
    assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    assert made["second-tokens"].parents["from"][0].name == "second"
    text = "apple pear plum"
    assert second.tokenizer(text)["input_ids"] == first.tokenizer(text)["input_ids"]
    assert second.vocab_size == first.vocab_size


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give one of vocab_size .* tokenizer and like"),
        ({"like": "first-tokens", "vocab_size": 300}, "give one of vocab_size .* tokenizer and like"),
    ],
)
def test_one_source_of_a_tokenizer(values: dict[str, object], message: str, texts: Path) -> None:
    """Catches two tokenizers for one text."""
    with pytest.raises(ConfigError, match=message):
        load(recipe(texts, **values))


def test_a_taken_tokenizer_gets_special_tokens(texts: Path, tmp_path: Path) -> None:
    """Catches old tokens that change their ids, and special tokens that text is cut into pieces for."""
    made = run(recipe(texts, like="first-tokens", mask_token="<mask>", sentinels=2), out=tmp_path)
    first, second = (Tokens.open(made[f"{name}-tokens"].folder) for name in ("first", "second"))
    vocabulary = first.tokenizer.get_vocab()
    assert {token: second.tokenizer.get_vocab()[token] for token in vocabulary} == vocabulary
    assert second.vocab_size == first.vocab_size + 3
    ids = second.tokenizer("apple <mask> pear <extra_id_1>")["input_ids"]
    assert second.tokenizer.mask_token_id in ids and len(set(ids) & set(second.tokenizer.all_special_ids)) == 2
    assert second.tokenizer.decode(ids) == "apple <mask> pear <extra_id_1>"


def test_another_mask_token(texts: Path, tmp_path: Path) -> None:
    """Catches a mask token that is exchanged in silence, so that a model's own row is no longer used."""
    values = recipe(texts, like="first-tokens", mask_token="<other>")
    values["stages"][1] = {"tokenize": {"name": "first-tokens", "vocab_size": 300, "mask_token": "<mask>"}}  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"the tokenizer has a mask_token already"):
        run(values, out=tmp_path)


def test_like_names_tokens(texts: Path, tmp_path: Path) -> None:
    """Catches a corpus that is taken for tokens, and a name that nothing has."""
    with pytest.raises(ConfigError, match="'first' makes a corpus, not a tokens"):
        run(recipe(texts, like="first"), out=tmp_path)
    with pytest.raises(ConfigError, match="no stage is called 'first-token'"):
        run(recipe(texts, like="first-token"), out=tmp_path)
