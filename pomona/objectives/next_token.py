"""Next-token prediction: the likelihood of text under a causal model.

Source: "Improving Language Understanding by Generative Pre-Training", 2018, Eq. 1.
Implements: sum over positions i of -log p(u_{i+1} | u_1 ... u_i), in nats.
Deviations: none. Where the stream marks documents, each is modelled on its own: positions start anew, attention stays
    within the document, and the first token of a document, of which nothing is known, is not counted.
Use when: pre-training or continuing a causal language model. Cost: one forward and backward pass.
Relations: `span-corruption` for encoder-decoders, `masked-lm` for bidirectional encoders.
Limits: causal models with a head; flash kernels cannot keep packed documents apart and are refused with them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from pomona.anatomy import Anatomy
from pomona.engine.head_loss import head_loss
from pomona.engine.protocols import IGNORED, Batch, Loss
from pomona.ground.config import MethodConfig
from pomona.objectives.documents import positions_within, require_document_masks, require_length, starts_of


class NextTokenConfig(MethodConfig):
    """Predict each token from those before it."""

    method: Literal["next-token"] = "next-token"

    def build(self, tokenizer: Any = None) -> NextToken:
        """The objective; a tokenizer is not needed."""
        return NextToken()


class NextToken:
    """See the card of this module. Fulfils `engine.protocols.Objective`."""

    name = "next-token"
    is_likelihood = True

    def prepare(self, batch: Batch, generator: torch.Generator | None = None) -> Batch:
        """`input_ids` and `labels` (B, T) of `tokens` (B, T+1); `position_ids` where there are `documents`."""
        tokens = batch["tokens"]
        made = {"input_ids": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}
        documents = batch.get("documents")
        if documents is not None:
            made["labels"] = made["labels"].masked_fill(starts_of(documents)[:, 1:], IGNORED)
            made["position_ids"] = positions_within(documents[:, :-1])
        return made

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the model is causal and has a head."""
        body.require("causal", "head", method=self.name)

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        """Nats summed over the counted tokens.

        Raises:
            UnsupportedModel: the model is not causal, or its kernel cannot keep documents apart.
            ConfigError: the sequence is longer than the model's positions.
        """
        self.check(body)
        require_length(body, batch["input_ids"].shape[1], self.name)
        inputs = {"input_ids": batch["input_ids"]}
        if "position_ids" in batch:
            # Positions that start anew are enough: transformers makes the block-diagonal causal mask from them.
            require_document_masks(body, self.name)
            inputs["position_ids"] = batch["position_ids"]
        total, correct = head_loss(body, body.hidden(**inputs), batch["labels"])
        return Loss(total, (batch["labels"] != IGNORED).sum(), correct)
