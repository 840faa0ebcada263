"""Span corruption: an encoder reads text with gaps, a decoder writes what was in them.

Source: "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020,
arXiv:1910.10683, Sec. 3.1.4 and 3.3.4 (15 % of the tokens, spans of 3 on average); lengths and the random segmentation
as in the authors' data pipeline.
Implements: round(density * T) noise tokens in round(noise / mean_span) spans. Noise and the rest are each cut at random
    into that many parts, which alternate, starting with text. Input: text with each span replaced by its sentinel,
    then the end token. Target: each sentinel followed by its span, then the end token.
Deviations: none. The target ends with the end token and not with a further sentinel, as in the authors' pipeline.
Use when: pre-training or continuing an encoder-decoder. Cost: the encoder sees 1 - density + density / mean_span of
    the tokens and the decoder the rest, so a step costs less than a causal one of the same window.
Relations: `masked-lm` predicts in place, with an encoder alone.
Limits: the loss is no likelihood of the text. Packed documents are not kept apart: spans may cross them, so a stream
    that marks documents is refused.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pomona.anatomy import Anatomy
from pomona.data.tokenizer import sentinel
from pomona.engine.head_loss import head_loss
from pomona.engine.protocols import IGNORED, Batch, Loss
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.objectives.config import ObjectiveConfig


class SpanCorruptionConfig(ObjectiveConfig):
    """Replace spans by sentinels and let the decoder write them."""

    method: Literal["span-corruption"] = "span-corruption"
    heads: ClassVar[tuple[str, ...]] = ("AutoModelForSeq2SeqLM",)
    density: float = Field(default=0.15, gt=0.0, lt=1.0)
    """Share of the tokens that are hidden (Sec. 3.3.4)."""
    mean_span: float = Field(default=3.0, ge=1.0)
    """Tokens in a hidden span, on average (Sec. 3.3.4)."""

    def build(self, tokenizer: Any) -> SpanCorruption:
        """The objective for a tokenizer with an end token and sentinels `<extra_id_0>`, `<extra_id_1>`, ...

        Raises:
            ConfigError: one of them is missing.
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
                f"{self.method} needs {' and '.join(missing)}",
                found=f"{type(tokenizer).__name__} without {'them' if len(missing) > 1 else 'it'}",
                do="train the tokenizer with sentinels (stage tokenize: `sentinels: 100`), or take one that has them",
            )
        return SpanCorruption(self, sentinels=tuple(sentinels), end_id=tokenizer.eos_token_id)


class SpanCorruption:
    """See the card of this module. Fulfils `engine.protocols.Objective`.

    Args:
        config: density and length of spans.
        sentinels: token ids, one for each span of a sequence at least.
        end_id: token that ends input and target.
    """

    name = "span-corruption"
    is_likelihood = False
    samples_labels = True

    def __init__(self, config: SpanCorruptionConfig, *, sentinels: tuple[int, ...], end_id: int) -> None:
        self.config, self.sentinels, self.end_id = config, torch.tensor(sentinels), end_id

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """`input_ids` (B, T_in) and `labels` (B, T_out), aligned with the decoder's positions, of `tokens` (B, T+1).

        Both lengths follow from T alone (`span_counts`), so nothing is padded. The token of look-ahead is left to the
        next window.

        Raises:
            ConfigError: more spans than sentinels, or the stream marks documents.
        """
        if "documents" in batch:
            raise ConfigError(
                f"{self.name} does not keep packed documents apart",
                needs="a stream that does not mark documents",
                do="set respect_documents to false",
            )
        tokens = batch["tokens"][:, :-1]
        rows, length = tokens.shape
        noise, spans = span_counts(length, density=self.config.density, mean_span=self.config.mean_span)
        if spans > len(self.sentinels):
            raise ConfigError(
                f"{self.name} needs a sentinel for each span",
                needs=f"{spans} sentinels for {length} tokens",
                found=f"{len(self.sentinels)}",
                do="shorten seq_length, lengthen mean_span, or train the tokenizer with more sentinels",
            )
        starts_BT, noise_BT = random_spans(rows, length, noise=noise, spans=spans, generator=generator)
        number = starts_BT.long().cumsum(1) - 1
        sentinel_BT = self.sentinels[number.clamp_min(0)]
        end = torch.full((rows, 1), self.end_id, dtype=tokens.dtype)
        # Input: the text, and one sentinel at the start of each span.
        kept = ~noise_BT | starts_BT
        input_ids = torch.where(starts_BT, sentinel_BT, tokens)[kept].view(rows, length - noise + spans)
        # Target: each span after its sentinel. Write sentinel and token as pairs and keep what belongs there.
        pairs = torch.stack([sentinel_BT, tokens], dim=2).flatten(1)
        target = pairs[torch.stack([starts_BT, noise_BT], dim=2).flatten(1)].view(rows, noise + spans)
        return {"input_ids": torch.cat([input_ids, end], dim=1), "labels": torch.cat([target, end], dim=1)}

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the model is an encoder-decoder that says how its decoder starts."""
        body.require("encoder_decoder", "head", method=self.name)
        if getattr(body.config, "decoder_start_token_id", None) is None:
            raise UnsupportedModel(
                f"{self.name} cannot start the decoder of {type(body.model).__name__}",
                needs="config.decoder_start_token_id",
                found="None",
                do="set it, for T5 to the padding token's id",
            )

    def inputs(self, body: Anatomy, batch: Batch) -> Batch:
        """What the model is given of a prepared batch: the corrupted text, and the target one place later."""
        decoded = shift_right(batch["labels"], int(body.config.decoder_start_token_id))
        return {"input_ids": batch["input_ids"], "decoder_input_ids": decoded}

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        """Nats summed over the target's tokens, the sentinels and the end token included.

        Raises:
            UnsupportedModel: the model is no encoder-decoder, or does not say with which token its decoder starts.
        """
        self.check(body)
        labels = batch["labels"]
        total, correct = head_loss(body, body.hidden(**self.inputs(body, batch)), labels, batch.get("draws"))
        return Loss(total, (labels != IGNORED).sum(), correct)


def span_counts(length: int, *, density: float, mean_span: float) -> tuple[int, int]:
    """(noise tokens, spans) of a window of `length` tokens; at least one of each, and one token that is not noise.

    Example:
        >>> span_counts(100, density=0.15, mean_span=3.0)
        (15, 5)
    """
    if length < 2:
        raise ConfigError("span-corruption needs windows of at least 2 tokens", found=f"{length}")
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
