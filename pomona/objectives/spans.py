"""Spans of a text and the tokens that stand for them: what the objectives that write hidden spans share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pomona.anatomy import Anatomy
from pomona.data.tokenizer import sentinel
from pomona.engine.protocols import Batch
from pomona.ground.errors import ConfigError, UnsupportedModel


def sentinels_of(tokenizer: Any, method: str) -> tuple[tuple[int, ...], int]:
    """(ids of `<extra_id_0>`, `<extra_id_1>`, ..., id of the end token).

    Raises:
        ConfigError: the vocabulary has no sentinel, or no end token.
    """
    vocabulary = tokenizer.get_vocab()
    sentinels: list[int] = []
    while (name := sentinel(len(sentinels))) in vocabulary:
        sentinels.append(vocabulary[name])
    missing = [] if sentinels else ["sentinels <extra_id_0>, <extra_id_1>, ..."]
    if tokenizer.eos_token_id is None:
        missing.append("an end token")
    if missing:
        raise ConfigError(
            f"{method} needs {' and '.join(missing)}",
            found=f"{type(tokenizer).__name__} without {'them' if len(missing) > 1 else 'it'}",
            do="give it sentinels (stage tokenize: `sentinels: 100`), or take a tokenizer that has them",
        )
    return tuple(sentinels), tokenizer.eos_token_id


def refuse_documents(batch: Batch, method: str) -> None:
    """Raise `ConfigError` where the stream marks documents, which spans do not heed."""
    if "documents" in batch:
        raise ConfigError(
            f"{method} does not keep packed documents apart",
            needs="a stream that does not mark documents",
            do="set respect_documents to false",
        )


def require_sentinels(spans: int, length: int, sentinels: Tensor, method: str) -> None:
    """Raise `ConfigError` where there are more spans than sentinels."""
    if spans > len(sentinels):
        raise ConfigError(
            f"{method} needs a sentinel for each span",
            needs=f"{spans} sentinels for {length} tokens",
            found=f"{len(sentinels)}",
            do="shorten seq_length, lengthen mean_span, or train the tokenizer with more sentinels",
        )


def require_decoder_start(body: Anatomy, method: str) -> None:
    """Raise `UnsupportedModel` unless an encoder-decoder says how its decoder starts."""
    if getattr(body.config, "decoder_start_token_id", None) is None:
        raise UnsupportedModel(
            f"{method} cannot start the decoder of {type(body.model).__name__}",
            needs="config.decoder_start_token_id",
            found="None",
            do="set it, for T5 to the padding token's id",
        )


def cut_out(
    tokens_BT: Tensor, starts_BT: Tensor, noise_BT: Tensor, sentinels_S: Tensor, end_id: int
) -> tuple[Tensor, Tensor]:
    """(input, target), each ended by the end token: the text with a sentinel in the place of each span, and each span
    after its sentinel. Every row hides as many tokens in as many spans.

    Args:
        starts_BT: bool, first tokens of spans. noise_BT: bool, all of their tokens.
    """
    rows = tokens_BT.shape[0]
    sentinel_BT = sentinels_S[(starts_BT.long().cumsum(1) - 1).clamp_min(0)]
    end = torch.full((rows, 1), end_id, dtype=tokens_BT.dtype)
    kept = ~noise_BT | starts_BT
    inputs = torch.where(starts_BT, sentinel_BT, tokens_BT)[kept].view(rows, -1)
    # Write sentinel and token as pairs and keep what belongs to the target.
    pairs = torch.stack([sentinel_BT, tokens_BT], dim=2).flatten(1)
    target = pairs[torch.stack([starts_BT, noise_BT], dim=2).flatten(1)].view(rows, -1)
    return torch.cat([inputs, end], dim=1), torch.cat([target, end], dim=1)


def span_counts(length: int, *, density: float, mean_span: float) -> tuple[int, int]:
    """(noise tokens, spans) of a window of `length` tokens; at least one of each, and one token that is not noise.

    Example:
        >>> span_counts(100, density=0.15, mean_span=3.0)
        (15, 5)
    """
    if length < 2:
        raise ConfigError("spans need windows of at least 2 tokens", found=f"{length}")
    noise = min(max(round(length * density), 1), length - 1)
    spans = min(max(round(noise / mean_span), 1), noise, length - noise)
    return noise, spans


def random_spans(
    rows: int, length: int, *, noise: int, spans: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(starts, noise), both (rows, length) bool: first tokens of noise spans, and all their tokens.

    Text and noise are each cut into `spans` parts of at least one token, all cuts being equally likely; text comes
    first and noise last, as in the authors' pipeline.
    """
    text_lengths = _random_parts(rows, length - noise, spans, generator)
    noise_lengths = _random_parts(rows, noise, spans, generator)
    ends = (text_lengths + noise_lengths).cumsum(1)
    starts = torch.zeros(rows, length, dtype=torch.bool).scatter_(1, ends - noise_lengths, True)
    change = torch.zeros(rows, length + 1, dtype=torch.int64)
    change.scatter_add_(1, ends - noise_lengths, torch.ones_like(ends)).scatter_add_(1, ends, -torch.ones_like(ends))
    return starts, change.cumsum(1)[:, :length].bool()


def _random_parts(rows: int, items: int, parts: int, generator: torch.Generator) -> Tensor:
    """(rows, parts) int64 lengths >= 1 that sum to `items`."""
    cuts = torch.rand(rows, items - 1, generator=generator).argsort(dim=1)[:, : parts - 1].sort(dim=1).values + 1
    edges = torch.cat([torch.zeros(rows, 1, dtype=torch.int64), cuts, torch.full((rows, 1), items)], dim=1)
    return edges.diff(dim=1)


def shift_right(labels_BT: Tensor, start_id: int) -> Tensor:
    """The decoder's input: the target one place later, after the start token."""
    start = torch.full_like(labels_BT[:, :1], start_id)
    return torch.cat([start, labels_BT[:, :-1]], dim=1)
