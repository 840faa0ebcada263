"""The small protocols that the training loop calls: two methods meet in one run only through these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

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
        parts: named numbers (detached), summed like `total`, for objectives made of several losses: they are recorded.
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


@runtime_checkable
class ReadingObjective(Objective, Protocol):
    """An objective that runs the model once on a batch and judges its logits: one that a teacher can be asked too."""

    def inputs(self, body: Anatomy, batch: Batch) -> Batch:
        """What `body.hidden` is given of a prepared micro-batch."""
        ...


@runtime_checkable
class PredictingObjective(Objective, Protocol):
    """An objective that runs the model once on a batch and judges logits that only the model's own forward makes."""

    def logits(self, body: Anatomy, batch: Batch) -> Tensor:
        """(targets, outputs) of a prepared micro-batch, in the order of its counted labels."""
        ...


@runtime_checkable
class SamplesLabels(Protocol):
    """An objective that can also score labels which the model itself draws.

    A prepared batch may then hold `draws` (B, T), uniform in [0, 1): wherever `labels` counts a target, the loss is
    that of a label drawn from the predicted distribution, by inversion of its cumulative sum at the draw.
    """

    samples_labels: bool


@dataclass(frozen=True)
class CurvatureRequest:
    """What an optimizer wants to know of the loss beside its gradient: the diagonal of its curvature, now and then.

    Attributes:
        estimator: `sampled-labels` is B g^2 with g the gradient of the mean loss to B labels drawn from the model (the
            Gauss-Newton diagonal in expectation); `hutchinson` is u * (H u) with u normal (the Hessian's).
        every: steps between estimates; the first follows step `every`.
        share: of a step's sequences that an estimate looks at, in (0, 1].
    """

    estimator: Literal["sampled-labels", "hutchinson"]
    every: int
    share: float

    @property
    def passes_per_step(self) -> float:
        """Cost of the estimates in training passes per step. Differentiating twice costs three times as much."""
        return self.share / self.every * (3.0 if self.estimator == "hutchinson" else 1.0)


@runtime_checkable
class UsesCurvature(Protocol):
    """An optimizer that asks the loop for curvature."""

    @property
    def curvature(self) -> CurvatureRequest: ...

    def update_curvature(self) -> None:
        """Take the estimate that each parameter's `grad` holds. Changes neither parameters nor moments of gradients."""
        ...


class Schedule(Protocol):
    """A learning rate over time."""

    def __call__(self, step: int) -> float:
        """The share of each group's peak rate that step `step` (counted from 0) uses: in [0, 1], unless the user asks
        for a multiple of it."""
        ...


@runtime_checkable
class OpenSchedule(Schedule, Protocol):
    """A schedule that a run may leave for good, in order to deliver a model, while later runs go on with it."""

    def leaves_after(self, steps: int) -> int:
        """How many of a run's `steps` steps belong to the main line: those before its annealing."""
        ...

    def continued(self, at: int) -> OpenSchedule:
        """The main line for a run whose step 0 follows `at` steps of this one."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Its place as plain values, for `ContinuingMethod.continued`."""
        ...


@runtime_checkable
class ContinuingMethod(Protocol):
    """The parameters of a schedule that can go on where another run left the main line."""

    @property
    def resumes_state(self) -> bool:
        """Whether weights and optimizer go on from there too, and not from the annealed model."""
        ...

    def continued(self, line: Mapping[str, Any], total_steps: int) -> Schedule:
        """The schedule of the next run, of `total_steps` steps, from `OpenSchedule.state_dict`."""
        ...


def size_of(batch: Batch) -> tuple[int, int]:
    """(sequences, tokens of each) of a prepared micro-batch; of images, what has labels: their pieces, or they."""
    rows, *length = batch["input_ids" if "input_ids" in batch else "labels"].shape
    return rows, math.prod(length)


def count_targets(batch: Batch) -> int:
    """How many labels of a prepared micro-batch are counted."""
    return int((batch["labels"] != IGNORED).sum())
