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

from pomona.anatomy import Anatomy
from pomona.engine.head_loss import head_loss
from pomona.engine.protocols import IGNORED, Batch, Loss
from pomona.objectives.config import ObjectiveConfig
from pomona.objectives.spans import (
    cut_out,
    random_spans,
    refuse_documents,
    require_decoder_start,
    require_sentinels,
    sentinels_of,
    shift_right,
    span_counts,
)


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
        sentinels, end_id = sentinels_of(tokenizer, self.method)
        return SpanCorruption(self, sentinels=sentinels, end_id=end_id)


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
        refuse_documents(batch, self.name)
        tokens = batch["tokens"][:, :-1]
        rows, length = tokens.shape
        noise, spans = span_counts(length, density=self.config.density, mean_span=self.config.mean_span)
        require_sentinels(spans, length, self.sentinels, self.name)
        starts, hidden = random_spans(rows, length, noise=noise, spans=spans, generator=generator)
        inputs, labels = cut_out(tokens, starts, hidden, self.sentinels, self.end_id)
        return {"input_ids": inputs, "labels": labels}

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the model is an encoder-decoder that says how its decoder starts."""
        body.require("encoder_decoder", "head", method=self.name)
        require_decoder_start(body, self.name)

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
