"""Training a tokenizer, and the bytes that tokens stand for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona.data import Corpus, token_bytes, train_tokenizer
from pomona.data.tokenizer import (
    _sample,
    end_of_document,
    sentinel,
    tokenizer_hash,
    untrained_tokenizer,
    vocabulary_size,
)
from pomona.ground.errors import ConfigError


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Any:
    return train_tokenizer(corpus, vocab_size=500, special_tokens=["<|x|>"], mask_token="<|mask|>")


@settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_any_text_comes_back_and_its_bytes_are_counted(tokenizer: Any, text: str) -> None:
    """Catches text that cannot be encoded, and token sizes that do not add up to the UTF-8 length."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not any(special in text for special in tokenizer.all_special_tokens):
        assert token_bytes(tokenizer)[ids].sum() == len(text.encode())
        assert tokenizer.decode(ids) == text


def test_special_tokens_have_their_roles_and_no_bytes(tokenizer: Any) -> None:
    """Catches roles that are lost on the way to transformers."""
    assert tokenizer.eos_token == tokenizer.bos_token == tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.mask_token == "<|mask|>"
    assert len(tokenizer) == vocabulary_size(tokenizer) == 500
    sizes = token_bytes(tokenizer)
    assert [sizes[tokenizer.convert_tokens_to_ids(token)] for token in ("<|endoftext|>", "<|x|>", "<|mask|>")] == [
        0
    ] * 3
    assert sizes.shape == (500,) and (sizes > 0).sum() == 497


def test_padding_may_have_a_token_of_its_own(corpus: Corpus) -> None:
    """Catches padding that is lost, and a stand-in for plans that knows other special tokens than the trained one."""
    names = {"special_tokens": [sentinel(0), sentinel(1)], "mask_token": "<mask>", "pad_token": "<pad>"}
    trained, stand_in = train_tokenizer(corpus, vocab_size=300, **names), untrained_tokenizer(**names)
    assert trained.pad_token == "<pad>" and trained.eos_token == "<|endoftext|>"
    assert stand_in.special_tokens_map == trained.special_tokens_map
    for token in ("<|endoftext|>", "<extra_id_0>", "<extra_id_1>", "<mask>", "<pad>"):
        assert stand_in.convert_tokens_to_ids(token) == trained.convert_tokens_to_ids(token) < 5
    assert len(stand_in) == 261


def test_training_is_deterministic(corpus: Corpus, tokenizer: Any) -> None:
    """Catches merges that depend on hash order or thread timing."""
    again = train_tokenizer(corpus, vocab_size=500, special_tokens=["<|x|>"], mask_token="<|mask|>")
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert tokenizer_hash(again) == tokenizer_hash(tokenizer) != tokenizer_hash(train_tokenizer(corpus, vocab_size=400))


def test_a_saved_tokenizer_is_the_same(tokenizer: Any, tmp_path: Any) -> None:
    """Catches settings that are lost when the tokenizer is stored with a model."""
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
    assert (
        loaded.mask_token == "<|mask|>"
        and loaded("the  shape\n")["input_ids"] == tokenizer("the  shape\n")["input_ids"]
    )


def test_the_sample_is_spread_over_the_corpus(corpus: Corpus) -> None:
    """Catches a tokenizer that saw the beginning only."""
    texts = [document.text for document in corpus.documents("train")]
    sample = list(_sample(corpus, corpus.bytes("train") // 5))
    assert 0.15 < len(sample) / len(texts) < 0.25
    positions = [texts.index(text) for text in sample]
    assert positions == sorted(positions) and positions[-1] > 0.9 * len(texts)
    assert list(_sample(corpus, 10**9)) == texts


def test_a_vocabulary_without_room_for_bytes_is_refused(corpus: Corpus) -> None:
    """Catches a tokenizer that cannot encode everything."""
    with pytest.raises(ConfigError, match=r"at least 258(.|\n)*vocab_size 257"):
        train_tokenizer(corpus, vocab_size=257, mask_token="<|mask|>")


def test_too_few_pairs_are_told(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a vocabulary that silently becomes smaller than asked."""
    tokenizer = train_tokenizer(corpus, vocab_size=20_000, min_frequency=20)
    assert len(tokenizer) < 20_000
    assert "tokens only" in capsys.readouterr().err


def wrapped(model: Any, decoder: Any, **special: str) -> Any:
    """A transformers tokenizer around a hand-made one."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(model)
    backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def test_sentencepiece_bytes() -> None:
    """Catches the three-byte mark of a space, and byte fallback counted by its six letters."""
    from tokenizers import decoders, models

    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), ("<0xE2>", -1.0), ("\u2581the", -1.0), ("é", -1.0)]
    tokenizer = wrapped(
        models.Unigram(vocabulary, 0, byte_fallback=True), decoders.Metaspace(), eos_token="</s>", unk_token="<unk>"
    )
    assert token_bytes(tokenizer).tolist() == [0, 0, 1, 4, 2]
    assert end_of_document(tokenizer) == 1


def test_wordpiece_bytes_and_separator() -> None:
    """Catches the continuation mark counted as text, and a BERT tokenizer without an end token."""
    from tokenizers import decoders, models

    vocabulary = {"[UNK]": 0, "[SEP]": 1, "the": 2, "##ta": 3}
    tokenizer = wrapped(
        models.WordPiece(vocabulary, unk_token="[UNK]"), decoders.WordPiece(), sep_token="[SEP]", unk_token="[UNK]"
    )
    assert token_bytes(tokenizer).tolist() == [0, 0, 3, 2]
    assert end_of_document(tokenizer) == 1


def test_a_tokenizer_without_an_end_is_refused() -> None:
    """Catches documents that would run into each other."""
    from tokenizers import decoders, models

    with pytest.raises(ConfigError, match="an eos_token or a sep_token"):
        end_of_document(wrapped(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"), decoders.WordPiece()))
