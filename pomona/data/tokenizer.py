"""Byte-level BPE trained on a corpus, and how many bytes of text each token of any tokenizer stands for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pomona.ground.console import warn
from pomona.ground.errors import ConfigError
from pomona.ground.files import content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    from pomona.data.corpus import Corpus

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"
_META_SPACE = "\u2581"


def sentinel(number: int) -> str:
    """The special token that stands for the hidden span of that number, from 0."""
    return f"<extra_id_{number}>"


def train_tokenizer(
    corpus: Corpus,
    *,
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    mask_token: str | None = None,
    pad_token: str | None = None,
    min_frequency: int = 2,
    sample_bytes: int = 10_000_000,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the train split; it can encode any text, and decoding gives the same bytes back.

    Args:
        vocab_size: all tokens: special ones, the 256 bytes and the merges.
        special_tokens: further special tokens, after `<|endoftext|>`, which begins and ends a text.
        mask_token: one more special token that becomes `tokenizer.mask_token`.
        pad_token: one more special token that becomes `tokenizer.pad_token`; None: `<|endoftext|>` pads.
        min_frequency: a pair that is rarer in the sample is not merged.
        sample_bytes: a larger corpus is represented by documents taken evenly from all of it.

    Raises:
        ConfigError: `vocab_size` has no room for the special tokens and the 256 bytes.
    """
    tokenizer = _byte_level_bpe(
        _sample(corpus, sample_bytes), vocab_size, special_tokens, mask_token, pad_token, min_frequency
    )
    if len(tokenizer) < vocab_size:
        warn(f"the text has pairs for {len(tokenizer):,} tokens only, not for {vocab_size:,}")
    return tokenizer


def untrained_tokenizer(
    *, special_tokens: Sequence[str] = (), mask_token: str | None = None, pad_token: str | None = None
) -> PreTrainedTokenizerFast:
    """What `train_tokenizer` gives before it has seen any text: 256 bytes, and the special tokens with their final ids.

    A plan asks this one whether an objective finds the tokens it needs.
    """
    smallest = 256 + len(_special(special_tokens, mask_token, pad_token))
    return _byte_level_bpe(iter(()), smallest, special_tokens, mask_token, pad_token)


def with_special_tokens(
    tokenizer: PreTrainedTokenizerBase,
    *,
    special_tokens: Sequence[str] = (),
    mask_token: str | None = None,
    pad_token: str | None = None,
) -> PreTrainedTokenizerBase:
    """A copy of a tokenizer that has further special tokens, behind those that it has; known ones keep their ids.

    A model that reads what it writes needs as many embeddings: `stages.vocabulary.widen_vocabulary_`.

    Raises:
        ConfigError: it has another mask token or padding token already.
    """
    own = {"mask_token": mask_token, "pad_token": pad_token}
    for role, token in own.items():
        if token is not None and (found := getattr(tokenizer, role)) not in (None, token):
            raise ConfigError(f"the tokenizer has a {role} already", needs=token, found=found, do=f"leave out {role}")
    made = deepcopy(tokenizer)
    extra = list(dict.fromkeys([*(made.extra_special_tokens or ()), *special_tokens]))
    roles = {role: token for role, token in own.items() if token is not None}
    made.add_special_tokens({**({"extra_special_tokens": extra} if extra else {}), **roles})
    return made


def require_room(
    vocab_size: int, special_tokens: Sequence[str] = (), mask_token: str | None = None, pad_token: str | None = None
) -> None:
    """Raise `ConfigError` unless a vocabulary has room for the 256 bytes and the special tokens."""
    specials = _special(special_tokens, mask_token, pad_token)
    if vocab_size < 256 + len(specials):
        raise ConfigError(
            "the vocabulary is too small for a byte-level tokenizer",
            needs=f"at least {256 + len(specials)}: 256 bytes and {len(specials)} special tokens",
            found=f"vocab_size {vocab_size}",
        )


def _special(special_tokens: Sequence[str], mask_token: str | None, pad_token: str | None) -> list[str]:
    """All special tokens, each once, in the order of their ids."""
    given = [END_OF_TEXT, *special_tokens, mask_token, pad_token]
    return list(dict.fromkeys(token for token in given if token))


def _byte_level_bpe(
    texts: Iterator[str],
    vocab_size: int,
    special_tokens: Sequence[str],
    mask_token: str | None,
    pad_token: str | None,
    min_frequency: int = 2,
) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    require_room(vocab_size, special_tokens, mask_token, pad_token)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=_special(special_tokens, mask_token, pad_token),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=pad_token or END_OF_TEXT,
        mask_token=mask_token,
        extra_special_tokens=list(special_tokens),
        clean_up_tokenization_spaces=False,
    )


def _sample(corpus: Corpus, sample_bytes: int) -> Iterator[str]:
    """Train documents, evenly from the whole corpus, of about `sample_bytes` in total; the same ones every time."""
    stride = max(1.0, corpus.bytes("train") / sample_bytes)
    taken = -1
    for index, document in enumerate(corpus.documents("train")):
        if int(index / stride) > taken:
            taken = int(index / stride)
            yield document.text


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that decides which tokens a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else sorted(tokenizer.get_vocab().items())
    return content_hash([type(tokenizer).__name__ if backend is None else "", rules, end_of_document(tokenizer)])


def end_of_document(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that closes every document: the end-of-sequence token, or the separator where there is none."""
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token is not None:
            return int(token)
    raise ConfigError(
        "this tokenizer cannot say where a document ends",
        needs="an eos_token or a sep_token",
        found=", ".join(tokenizer.all_special_tokens) or "no special tokens",
        do="set tokenizer.eos_token",
    )


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id (added tokens included; ids may have gaps)."""
    return int(max(tokenizer.get_vocab().values())) + 1


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int32]:
    """(V,) UTF-8 bytes of text that each token stands for; 0 for special tokens and unused ids.

    Exact for byte-level tokenizers (the sum over a text's tokens is its length in bytes) and for SentencePiece with
    byte fallback up to the space put before the text. WordPiece drops white space, which then counts nowhere.
    """
    sizes = np.zeros(vocabulary_size(tokenizer), dtype=np.int32)
    special = set(tokenizer.all_special_ids)
    added = tokenizer.added_tokens_decoder
    rule = _rule(tokenizer)
    for token, index in tokenizer.get_vocab().items():
        if index in special:
            continue
        if index in added:
            sizes[index] = 0 if added[index].special else len(token.encode())
        elif rule == "byte-level":
            sizes[index] = len(token) if set(token) <= _byte_letters() else len(token.encode())
        elif rule == "wordpiece":
            sizes[index] = len(token.removeprefix("##").encode())
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            sizes[index] = 1
        else:
            sizes[index] = len(token.replace(_META_SPACE, " ").encode())
    return sizes


def _rule(tokenizer: PreTrainedTokenizerBase) -> str:
    """How a vocabulary entry spells text: byte-level, wordpiece or plain (SentencePiece)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return "plain"
    rules = json.loads(backend.to_str())
    if rules["model"]["type"] == "WordPiece":
        return "wordpiece"
    parts = [rules.get("pre_tokenizer") or {}, rules.get("decoder") or {}]
    kinds = {part.get("type") for rule in parts for part in (rule, *_children(rule))}
    return "byte-level" if "ByteLevel" in kinds else "plain"


def _children(rule: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    return [*rule.get("pretokenizers", []), *rule.get("decoders", [])]


@cache
def _byte_letters() -> frozenset[str]:
    """The 256 characters by which a byte-level vocabulary spells bytes, one character per byte."""
    from tokenizers import pre_tokenizers

    return frozenset(pre_tokenizers.ByteLevel.alphabet())
