"""Each token from those before it: what the objectives of causal models share."""

from __future__ import annotations

import torch

from pomona.anatomy import Anatomy
from pomona.engine.head_loss import head_loss
from pomona.engine.protocols import IGNORED, Batch, Loss
from pomona.objectives.documents import positions_within, require_document_masks, require_length, starts_of


class Causal:
    """An objective of causal models. Fulfils `engine.protocols.Objective`; a method sets its name, and may prepare
    batches in its own way."""

    name: str
    is_likelihood = True
    samples_labels = True

    def prepare(self, batch: Batch, generator: torch.Generator | None = None) -> Batch:
        """`input_ids` and `labels` (B, T) of `tokens` (B, T+1); see `shifted`."""
        return shifted(batch)

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the model is causal and has a head."""
        body.require("causal", "head", method=self.name)

    def inputs(self, body: Anatomy, batch: Batch) -> Batch:
        """What the model is given of a prepared batch."""
        return causal_inputs(body, batch, self.name)

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        """Nats summed over the counted tokens.

        Raises:
            UnsupportedModel: the model is not causal, or its kernel cannot keep documents apart.
            ConfigError: the sequence is longer than the model's positions.
        """
        self.check(body)
        inputs = self.inputs(body, batch)
        total, correct = head_loss(body, body.hidden(**inputs), batch["labels"], batch.get("draws"))
        return Loss(total, (batch["labels"] != IGNORED).sum(), correct)


def shifted(batch: Batch) -> Batch:
    """`input_ids` and `labels` (B, T) of `tokens` (B, T+1): the label of a position is the token after it.

    What is `given` (B, T+1) is not counted. Where there are `documents` the first token of each, of which nothing is
    known, is not counted either, and `position_ids` start anew.
    """
    tokens = batch["tokens"]
    made = {"input_ids": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}
    if "given" in batch:
        made["labels"] = made["labels"].masked_fill(batch["given"][:, 1:], IGNORED)
    documents = batch.get("documents")
    if documents is not None:
        made["labels"] = made["labels"].masked_fill(starts_of(documents)[:, 1:], IGNORED)
        made["position_ids"] = positions_within(documents[:, :-1])
    return made


def causal_inputs(body: Anatomy, batch: Batch, method: str) -> Batch:
    """What a causal model is given of a batch that `shifted` made."""
    require_length(body, batch["input_ids"].shape[1], method)
    inputs = {"input_ids": batch["input_ids"]}
    if "position_ids" in batch:
        # Positions that start anew are enough: transformers makes the block-diagonal causal mask from them.
        require_document_masks(body, method)
        inputs["position_ids"] = batch["position_ids"]
    return inputs
