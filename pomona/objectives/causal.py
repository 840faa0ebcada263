"""Each token from those before it: what the objectives of causal models share."""

from __future__ import annotations

from pomona.anatomy import Anatomy
from pomona.engine.head_loss import head_loss
from pomona.engine.protocols import IGNORED, Batch, Loss
from pomona.objectives.documents import positions_within, require_document_masks, require_length, starts_of


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


def check_causal(body: Anatomy, method: str) -> None:
    """Raise `UnsupportedModel` unless the model is causal and has a head."""
    body.require("causal", "head", method=method)


def causal_inputs(body: Anatomy, batch: Batch, method: str) -> Batch:
    """What a causal model is given of a batch that `shifted` made."""
    require_length(body, batch["input_ids"].shape[1], method)
    inputs = {"input_ids": batch["input_ids"]}
    if "position_ids" in batch:
        # Positions that start anew are enough: transformers makes the block-diagonal causal mask from them.
        require_document_masks(body, method)
        inputs["position_ids"] = batch["position_ids"]
    return inputs


def causal_loss(body: Anatomy, batch: Batch, method: str) -> Loss:
    """Nats summed over the counted labels of a batch that `shifted` made.

    Raises:
        UnsupportedModel: the model is not causal, or its kernel cannot keep documents apart.
        ConfigError: the sequence is longer than the model's positions.
    """
    check_causal(body, method)
    total, correct = head_loss(
        body, body.hidden(**causal_inputs(body, batch, method)), batch["labels"], batch.get("draws")
    )
    return Loss(total, (batch["labels"] != IGNORED).sum(), correct)
