"""How likely a causal model finds each chunk: forward passes only, in evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pomona.anatomy import Anatomy
from pomona.data.tokens import Split
from pomona.engine.evaluate import autocast
from pomona.engine.head_loss import CHUNK_ELEMENTS
from pomona.ground.errors import ConfigError
from pomona.selection.chunks import Chunks


def check_scorer(body: Anatomy, chunks_length: int, role: str) -> None:
    """Raise `UnsupportedModel` or `ConfigError` where a model cannot say how likely a chunk is."""
    body.require("causal", "head", method=f"the {role} of a selection")
    most = body.max_positions
    if most is not None and chunks_length > most:
        raise ConfigError(
            f"chunks are longer than the {role}'s positions",
            needs=f"at most {most} tokens",
            found=f"chunk_length {chunks_length}",
            do="shorten chunk_length",
        )


@torch.no_grad()
def nats_of_chunks(
    body: Anatomy,
    split: Split,
    chunks: Chunks,
    numbers: Sequence[int],
    *,
    end: int,
    batch_size: int = 16,
    dtype: torch.dtype | None = None,
) -> NDArray[np.float32]:
    """Mean -log p of the predicted tokens of some chunks, in nats.

    A chunk is read by itself, from its first token on. Ends of documents (and what fills a short chunk up) are not
    counted: which document comes next is no property of a text. A chunk in which nothing counts has 0 nats.

    Args:
        body: of a causal model; its mode (train or eval) is restored afterwards.
        numbers: which chunks.
        end: the token that closes a document.
        batch_size: chunks of a pass; the result does not depend on it but for rounding.
        dtype: of matrix products; None is the weights' own.
    """
    model, found = body.model, np.empty(len(numbers), dtype=np.float32)
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        for low in range(0, len(numbers), batch_size):
            some = [split.tokens.read(*chunks.span(number)) for number in numbers[low : low + batch_size]]
            longest = max(map(len, some))
            tokens = torch.full((len(some), longest), end)
            for row, ids in enumerate(some):
                tokens[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
            tokens = tokens.to(device)
            labels = tokens[:, 1:]
            with autocast(device, dtype):
                nats = token_nats(body, body.hidden(input_ids=tokens[:, :-1]), labels)
            counted = labels != end
            sums = torch.where(counted, nats, 0.0).double().sum(1) / counted.sum(1).clamp_min(1)
            found[low : low + len(some)] = sums.float().cpu().numpy()
    finally:
        model.train(was_training)
    return found


def token_nats(body: Anatomy, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
    """(B, T) float32 -log p of each label by the model's own head; the logits of a few rows exist at a time."""
    hidden, labels = hidden_BTD.flatten(0, 1), labels_BT.flatten()
    rows = max(1, CHUNK_ELEMENTS // body.vocab_size)
    parts = [
        F.cross_entropy(body.logits(some).float(), wanted, reduction="none")
        for some, wanted in zip(torch.split(hidden, rows), torch.split(labels, rows), strict=True)
    ]
    return torch.cat(parts).view_as(labels_BT)
