"""The small protocols that the training loop calls: two methods meet in one run only through these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pomona.anatomy import Anatomy

Batch = dict[str, Tensor]
"""Named tensors whose first axis is the sequence. A stream gives `tokens` (B, T+1); an objective adds the rest."""

IGNORED = -100
"""The label of a position that is not counted (Hugging Face's value)."""


@dataclass
class Loss:
    """The loss of one micro-batch, summed rather than averaged so that accumulation stays exact.

    Attributes:
        total: scalar float32, nats summed over the counted targets; carries the gradient.
        targets: how many targets were counted.
        correct: how many of them were predicted exactly; None where that was not asked for.
        parts: named addends of `total` (detached), for objectives made of several losses.
    """

    total: Tensor
    targets: int | Tensor
    correct: Tensor | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Objective(Protocol):
    """What a model is trained to do: owns corruption and loss."""

    name: str
    is_likelihood: bool
    """True when `total` is -log p of the text itself, so that bits per byte mean something."""

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` where the model cannot be trained to do this. Looks at its structure only, so that
        a plan can ask it of a model without weights."""
        ...

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Make `input_ids` and `labels` from `tokens`. Pure: all randomness comes from `generator`.

        `labels` (B, T) are aligned with the positions that predict them; `IGNORED` marks what is not counted.
        """
        ...

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        """The loss of a prepared micro-batch."""
        ...


class Schedule(Protocol):
    """A learning rate over time."""

    def __call__(self, step: int) -> float:
        """The share, in [0, 1], of each group's peak rate that step `step` (counted from 0) uses."""
        ...


def count_targets(batch: Batch) -> int:
    """How many labels of a prepared micro-batch are counted."""
    return int((batch["labels"] != IGNORED).sum())
