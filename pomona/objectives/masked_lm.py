"""Masked language modelling: restore hidden tokens from both sides.

Source: "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", NAACL 2019,
arXiv:1810.04805, Sec. 3.1 (15 % of the tokens; of these 80 % masked, 10 % random, 10 % kept); whole words as in the
authors' later release.
Implements: a fixed number of targets per sequence, round(probability * candidates) and at least one, as in the authors'
    data pipeline; cross-entropy over the targets only.
Deviations: random replacements come from the tokens that are not special. With whole words the last chosen word may
    exceed the number by its own rest, where the authors' pipeline looks for a shorter one.
Use when: pre-training or continuing a bidirectional encoder. Cost: one forward and backward pass; 15 % of tokens learn.
Relations: `span-corruption` hides spans behind one token each and writes them with a decoder; `next-token` learns from
    every token but sees one side.
Limits: the loss is no likelihood of the text, so it gives no bits per byte.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pomona.anatomy import Anatomy
from pomona.engine.head_loss import head_loss
from pomona.engine.protocols import IGNORED, Batch, Loss
from pomona.ground.errors import ConfigError
from pomona.objectives.choice import choose, mask_token_of, share_of, special_tokens
from pomona.objectives.config import ObjectiveConfig
from pomona.objectives.documents import block_diagonal_mask, positions_within, require_length


class MaskedLmConfig(ObjectiveConfig):
    """Hide a share of the tokens and predict them from both sides."""

    method: Literal["masked-lm"] = "masked-lm"
    heads: ClassVar[tuple[str, ...]] = ("AutoModelForMaskedLM",)
    probability: float = Field(default=0.15, gt=0.0, lt=1.0)
    """Share of the tokens that are predicted (Sec. 3.1)."""
    masked: float = Field(default=0.8, ge=0.0, le=1.0)
    """Share of the predicted tokens that the mask token replaces (Sec. 3.1)."""
    replaced: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the predicted tokens that a random token replaces; the rest stay as they are (Sec. 3.1)."""
    whole_words: bool = False
    """Hide all tokens of a word together."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.masked + self.replaced > 1.0 + 1e-9:
            raise ValueError(f"masked {self.masked} and replaced {self.replaced} are together more than 1")
        return self

    def build(self, tokenizer: Any) -> MaskedLm:
        """The objective for a tokenizer that has a mask token.

        Raises:
            ConfigError: the tokenizer has no mask token, or no words can be told from its tokens.
        """
        mask_id, special = mask_token_of(tokenizer, self.method), special_tokens(tokenizer)
        starts = word_starts(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))) if self.whole_words else None
        return MaskedLm(self, mask_id=mask_id, special_V=special, word_start_V=starts)


class MaskedLm:
    """See the card of this module. Fulfils `engine.protocols.Objective`.

    Args:
        config: shares.
        mask_id: of the mask token.
        special_V: bool, True for tokens that are never hidden and never used as replacements.
        word_start_V: bool, True for tokens that begin a word; None hides single tokens.
    """

    name = "masked-lm"
    is_likelihood = False
    samples_labels = True

    def __init__(
        self, config: MaskedLmConfig, *, mask_id: int, special_V: Tensor, word_start_V: Tensor | None = None
    ) -> None:
        self.config, self.mask_id = config, mask_id
        self.special_V, self.word_start_V = special_V, word_start_V
        self.ordinary = (~special_V).nonzero().squeeze(1)
        if not self.ordinary.numel():
            raise ConfigError(f"{self.name} needs tokens that are not special", found="a vocabulary without any")

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """`input_ids` with hidden tokens and `labels` (B, T) of `tokens` (B, T+1).

        The token of look-ahead is left to the next window. Where there are `documents`, they are passed on with
        `position_ids`, for the mask that keeps them apart.
        """
        tokens = batch["tokens"][:, :-1]
        candidates = ~self.special_V[tokens]
        words = None if self.word_start_V is None else words_of(self.word_start_V[tokens] | ~candidates)
        chosen = choose(candidates, share_of(candidates, self.config.probability), generator, words)
        draw = torch.rand(tokens.shape, generator=generator)
        random = self.ordinary[torch.randint(len(self.ordinary), tokens.shape, generator=generator)]
        hidden = torch.where(draw < self.config.masked + self.config.replaced, random, tokens)
        hidden = torch.where(draw < self.config.masked, self.mask_id, hidden)
        made = {
            "input_ids": torch.where(chosen, hidden, tokens),
            "labels": tokens.masked_fill(~chosen, IGNORED),
        }
        if "documents" in batch:
            made["documents"] = batch["documents"][:, :-1].contiguous()
            made["position_ids"] = positions_within(made["documents"])
        return made

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the model is bidirectional and has a head."""
        body.require("bidirectional", "head", method=self.name)

    def inputs(self, body: Anatomy, batch: Batch) -> Batch:
        """What the model is given of a prepared batch."""
        require_length(body, batch["input_ids"].shape[1], self.name)
        inputs = {"input_ids": batch["input_ids"]}
        if "documents" in batch:
            inputs["position_ids"] = batch["position_ids"]
            inputs["attention_mask"] = block_diagonal_mask(batch["documents"], body)
        return inputs

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        """Nats summed over the hidden tokens; the head sees only their positions.

        Raises:
            UnsupportedModel: the model is not bidirectional.
            ConfigError: the sequence is longer than the model's positions.
        """
        self.check(body)
        counted = batch["labels"] != IGNORED
        hidden = body.hidden(**self.inputs(body, batch))[counted]
        draws = batch["draws"][counted] if "draws" in batch else None
        total, correct = head_loss(body, hidden, batch["labels"][counted], draws)
        return Loss(total, counted.sum(), correct)


def words_of(starts_BT: Tensor) -> Tensor:
    """(B, T) int64 number of each token's word, from 0, given the tokens that begin one."""
    return (starts_BT.long().cumsum(1) - starts_BT[:, :1].long()).contiguous()


def word_starts(tokens: list[str]) -> Tensor:
    """(V,) bool: which tokens of a vocabulary begin a word, by the mark of its kind (##, Ġ or ▁).

    Raises:
        ConfigError: the vocabulary carries no such mark.
    """
    if any(token.startswith("##") for token in tokens):
        return torch.tensor([not token.startswith("##") for token in tokens])
    marks = ("Ġ", "Ċ", "ĉ", "▁")
    if not any(token.startswith(marks) for token in tokens):
        raise ConfigError(
            "whole words cannot be told from this vocabulary",
            needs='tokens marked by "##", "Ġ" or "▁"',
            do="set whole_words to false",
        )
    return torch.tensor([token.startswith(marks) for token in tokens])
