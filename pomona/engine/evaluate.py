"""The loss of a model on held-out batches, in nats per token and in bits per byte."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pomona.anatomy import Anatomy
from pomona.engine.ledger import Ledger
from pomona.engine.protocols import IGNORED, Batch, Objective
from pomona.ground.errors import DataError


@dataclass(frozen=True)
class Quality:
    """What a model scores on held-out text.

    Attributes:
        nats_per_token: mean -log p of the counted targets.
        bits_per_byte: the same per UTF-8 byte of the targets, comparable between tokenizers; None where the
            objective is not a likelihood of the text or byte counts are not known.
        accuracy: share of counted targets predicted exactly, in [0, 1].
        tokens: counted targets.
        bytes: UTF-8 bytes they stand for; 0 when not known.
    """

    nats_per_token: float
    bits_per_byte: float | None
    accuracy: float | None
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nats_per_token, 700.0))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def count_bytes(labels: Tensor, token_bytes: Tensor | None) -> int:
    """UTF-8 bytes that the counted labels stand for (0 without a table)."""
    return 0 if token_bytes is None else int(token_bytes[labels[labels != IGNORED]].sum())


def bits_per_byte(nats: float, byte_count: int) -> float | None:
    """Summed nats over summed bytes, in bits; None without bytes."""
    return nats / math.log(2) / byte_count if byte_count else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    """Run matrix products in `dtype`; None: in the weights' own, whatever an outer context or library has set."""
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


@torch.no_grad()
def evaluate(
    body: Anatomy,
    objective: Objective,
    batches: Sequence[Batch],
    *,
    token_bytes: Tensor | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    ledger: Ledger | None = None,
) -> Quality:
    """Score a model on fixed batches. Corruption, where the objective has one, is the same in every call.

    Args:
        body: anatomy of the model; its mode (train or eval), and that of the objective, is restored afterwards.
        objective: what is scored.
        batches: from `data.validation_batches`, before `prepare`.
        token_bytes: (V,) integer, UTF-8 bytes of each token.
        dtype: bfloat16 to score as in training; None to score in the weights' own precision.
        seed: of the corruption.
        ledger: charged under `evaluate`.

    Raises:
        DataError: no target was counted.
    """
    start = time.perf_counter()
    model = body.model
    device = next(model.parameters()).device
    modules = [module for module in (model, objective) if isinstance(module, nn.Module)]
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    nats, correct, targets, byte_count = 0.0, 0, 0, 0
    try:
        for index, raw in enumerate(batches):
            prepared = objective.prepare(raw, torch.Generator().manual_seed(seed * 1_000_003 + index))
            batch = {name: tensor.to(device) for name, tensor in prepared.items()}
            with autocast(device, dtype):
                loss = objective(body, batch)
            nats += float(loss.total)
            targets += int(loss.targets)
            correct += int(loss.correct) if loss.correct is not None else 0
            if objective.is_likelihood:
                byte_count += count_bytes(prepared["labels"], token_bytes)
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)
    if targets == 0:
        raise DataError("nothing to evaluate", found="no counted target in the held-out batches")
    if ledger is not None:
        ledger.charge("evaluate", seconds=time.perf_counter() - start, tokens=targets)
    return Quality(nats / targets, bits_per_byte(nats, byte_count), correct / targets, targets, byte_count)
