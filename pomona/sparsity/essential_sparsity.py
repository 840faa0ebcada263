"""Essential sparsity: how many of the smallest weights a trained model can lose at once, and the knee after that.

Source: "The Emergence of Essential Sparsity in Large Pre-trained Models: The Weights that Matter", NeurIPS 2023,
arXiv:2306.03805, Sec. 3 and 4.
Implements: the curve of loss against sparsity of one-shot magnitude pruning from the same trained weights, on a grid
    refined by bisection; essential sparsity, the largest one up to which the loss is within 1 % of the dense model's;
    the sharp drop after it, from two lines fitted to the curve; the curve of random pruning beside it. The model is
    then pruned to its essential sparsity. `sparsity_curve` measures any other patterns, as those of `n-m-sparsity`, and
    `weight_statistics` how weights gather at zero from checkpoint to checkpoint.
Deviations: the loss on calibration data without fine-tuning (the paper fine-tunes on tasks as well as testing language
    models without); in steps of any size instead of 10 %. Left out: lottery tickets by iterative pruning.
Use when: you want what is free, or to compare checkpoints by it. Cost: about 25 passes forward over the calibration
    batches and a copy of the weights.
Relations: `magnitude` at the sparsity found here gives the same weights.
Limits: the answer is that of the calibration data. A model that has barely been trained has no knee.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from pomona import anatomy
from pomona.anatomy import Anatomy, Weight
from pomona.ground.errors import ConfigError
from pomona.sparsity.calibration import Calibration
from pomona.sparsity.knee import Knee, Measured, find_knee, largest_within
from pomona.sparsity.magnitude import Allocation, MagnitudeConfig
from pomona.sparsity.report import SparsityReport
from pomona.sparsity.weight_pruning import WeightPruning, ZeroingConfig, zero_
from pomona.sparsity.weight_scores import prunable, require_finite

if TYPE_CHECKING:
    from pomona.engine import Batch, Objective


@dataclass(frozen=True)
class Scan:
    """How the loss of a model depends on its sparsity, nats per target.

    Args:
        dense: the loss of the model as it is.
        tolerance: by which share of it the loss may grow.
        essential: the largest sparsity up to which it does not grow more.
        curve: of magnitude pruning, in ascending order. random: of random pruning, or empty.
        knee: of the curve; None with too few points.
    """

    dense: float
    tolerance: float
    essential: float
    curve: tuple[Measured, ...]
    random: tuple[Measured, ...]
    knee: Knee | None

    def __str__(self) -> str:
        text = f"{self.essential:.0%} of the weights are not needed within {self.tolerance:.1%} of the loss"
        if self.knee is None or not self.knee.sharp:
            return f"{text}; the loss rises without a sharp knee"
        times = "" if self.knee.sharpness is None else f" {self.knee.sharpness:.0f} times"
        return f"{text}; from {self.knee.at:.0%} on the loss rises{times} faster than before"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        knee = self.knee
        return {
            "dense": self.dense,
            "tolerance": self.tolerance,
            "essential": self.essential,
            "curve": [_plain(point) for point in self.curve],
            "random": [_plain(point) for point in self.random],
            "knee": knee and {**asdict(knee), "sharpness": knee.sharpness, "sharp": knee.sharp},
            "text": str(self),
        }


class EssentialSparsityConfig(ZeroingConfig):
    """Find out how many of the smallest weights a model does not need, and zero those."""

    method: Literal["essential-sparsity"] = "essential-sparsity"
    tolerance: float = Field(default=0.01, gt=0.0)
    """By which share the loss may grow: 1 %, as in the paper."""
    allocation: Allocation = "global"
    """As of `magnitude`: one threshold (`global`), the same share of each matrix (`uniform`), or `erk`."""
    step: float = Field(default=0.1, ge=0.01, le=0.25)
    """Distance of the sparsities that are measured first."""
    resolution: float = Field(default=0.0125, ge=0.001)
    """How finely the essential sparsity is found between two of them."""
    random_curve: bool = True
    """Whether random pruning is measured at the first sparsities too: the control."""

    @property
    def passes(self) -> float:
        grid = math.ceil(1.0 / self.step) - 1
        return (
            1.0 + grid * (2 if self.random_curve else 1) + max(0.0, math.ceil(math.log2(self.step / self.resolution)))
        )

    def at(self, sparsity: float, score: Literal["magnitude", "random"] = "magnitude") -> MagnitudeConfig:
        """One-shot pruning to a sparsity."""
        return MagnitudeConfig(
            sparsity=sparsity, allocation=self.allocation, score=score, roles=self.roles, seed=self.seed
        )

    def apply_(self, model: Any, batches: Sequence[Batch] = (), objective: Objective | None = None) -> SparsityReport:
        start = time.perf_counter()
        body = model if isinstance(model, Anatomy) else anatomy.of(model)
        self.check(body)
        data = Calibration(body, batches, objective, self.method)
        scan = self._scan(data)
        if scan.essential == 0.0:
            raise ConfigError(
                f"{self.method} finds no weights that can be spared (nothing was changed)",
                needs=f"a loss within {self.tolerance:.1%} of {scan.dense:.4g} at some sparsity",
                found=f"{scan.curve[1].loss:.4g} at {scan.curve[1].sparsity:.1%}",
                do="allow a larger tolerance, or prune to a given sparsity by `magnitude` and train on",
            )
        pruned = self.at(scan.essential).apply_(body)
        return SparsityReport(
            method=self.method,
            config=self.model_dump(mode="json"),
            cuts=pruned.cuts,
            parameters_before=pruned.parameters_before,
            parameters_after=pruned.parameters_after,
            zeros=pruned.zeros,
            loads_with=pruned.loads_with,
            tokens=data.tokens,
            flops=data.flops,
            seconds=time.perf_counter() - start,
            study=scan.to_dict(),
        )

    def _scan(self, data: Calibration) -> Scan:
        dense = data.loss()
        essential, curve = largest_within(
            lambda sparsity: _loss_under(data, self.at(sparsity)),
            dense=dense,
            tolerance=self.tolerance,
            step=self.step,
            resolution=self.resolution,
        )
        # The knee is that of the even grid: the points of the bisection would weigh on one side of it.
        grid = [point for point in curve if abs(point.sparsity / self.step - round(point.sparsity / self.step)) < 1e-6]
        random = [point.sparsity for point in grid if point.sparsity > 0] if self.random_curve else []
        return Scan(
            dense=dense,
            tolerance=self.tolerance,
            essential=essential,
            curve=tuple(curve),
            random=tuple(Measured(sparsity, _loss_under(data, self.at(sparsity, "random"))) for sparsity in random),
            knee=find_knee([point for point in grid if math.isfinite(point.loss)]),
        )


def scan_sparsity(
    model: Any,
    batches: Sequence[Batch],
    objective: Objective,
    config: EssentialSparsityConfig | None = None,
) -> Scan:
    """Find the essential sparsity of a model, which is left as it is.

    Args:
        batches: data prepared for the objective.
    """
    config = config or EssentialSparsityConfig()
    body = model if isinstance(model, Anatomy) else anatomy.of(model)
    return config._scan(Calibration(body, batches, objective, config.method))


def sparsity_curve(
    model: Any, methods: Iterable[WeightPruning], batches: Sequence[Batch], objective: Objective
) -> list[float]:
    """The loss in nats per target under each way to zero weights, from the same weights; the model is left as it is.

    Example: `[MagnitudeConfig(sparsity=0.5), NMSparsityConfig(pattern="2:4"), NMSparsityConfig(pattern="4:8")]`.
    """
    body = model if isinstance(model, Anatomy) else anatomy.of(model)
    data = Calibration(body, batches, objective, "a sparsity curve")
    return [_loss_under(data, method) for method in methods]


def essential_sparsity_(
    model: Any,
    config: EssentialSparsityConfig | None = None,
    batches: Sequence[Batch] = (),
    objective: Objective | None = None,
) -> SparsityReport:
    """Prune `model` in place to its essential sparsity; see `PruningConfig.apply_`."""
    return (config or EssentialSparsityConfig()).apply_(model, batches, objective)


def _plain(point: Measured) -> tuple[float, float | None]:
    """(sparsity, loss), None where the loss is not a number."""
    return point.sparsity, point.loss if math.isfinite(point.loss) else None


def _loss_under(data: Calibration, method: WeightPruning) -> float:
    """The loss while a method has zeroed its weights."""
    method.check(data.body)
    weights = prunable(data.body, method.roles)
    require_finite(weights)
    with _restored(weights):
        zero_(weights, method.masks(weights))
        return data.loss()


@contextmanager
def _restored(weights: Sequence[Weight]) -> Iterator[None]:
    """At the end of the block, weights are what they were before it."""
    before = [weight.read().clone() for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, values in zip(weights, before, strict=True):
                weight.write_(values)
