"""What stages that edit a trained model read: training sequences to calibrate on, held-out text to be scored on."""

from __future__ import annotations

from typing import Any

import torch

from pomona.data import Tokens, TokenStream, validation_batches
from pomona.engine import Batch, Ledger, Objective, evaluate
from pomona.engine.speed import training_dtype

ROWS = 16
"""Sequences of a batch."""


def calibration_batches(tokens: Tokens, *, count: int, seq_length: int, seed: int) -> list[Batch]:
    """Random training sequences as the stream gives them, of at least one batch and about `count` tokens."""
    stream = TokenStream(tokens.train, batch_size=ROWS, seq_length=seq_length, seed=seed + 1)
    steps = max(1, round(count / stream.tokens_at(0)))
    return [batch for step in range(steps) for batch in stream.batch(step)]


def quality_of(
    body: Any, objective: Objective, tokens: Tokens, *, seq_length: int, limit: int, ledger: Ledger
) -> dict[str, Any] | None:
    """What a model scores on at most `limit` held-out tokens, plain values; None where there are too few."""
    if tokens.validation.count <= seq_length:
        return None
    held_out = validation_batches(tokens.validation, batch_size=ROWS, seq_length=seq_length, limit_tokens=limit)
    table = torch.from_numpy(tokens.token_bytes)
    found = evaluate(body, objective, held_out, token_bytes=table, dtype=training_dtype("auto"), ledger=ledger)
    return found.to_dict()
