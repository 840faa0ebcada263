"""What the methods that zero single weights share: parameters, masks, reporting.

A mask needs no file of its own: the zeros in the saved weights are the mask, since no trained weight is exactly zero.
`fixed_zeros` holds them while the model is trained on.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy, Weight
from pomona.sparsity.config import PruningConfig
from pomona.sparsity.report import Cut, Loader, SparsityReport
from pomona.sparsity.start import HeldZeros
from pomona.sparsity.weight_scores import WeightScore, prunable, require_finite

if TYPE_CHECKING:
    from pomona.engine import Batch, Objective


class ZeroingConfig(PruningConfig):
    """A method that zeroes single weights, whichever they are: sizes stay."""

    roles: tuple[str, ...] = ()
    """Which weights count: parts (ffn) or roles (attention.query, embedding, head). Default: all maps in the blocks."""
    seed: NonNegativeInt = 0
    """Of random scores."""

    def check(self, body: Anatomy) -> None:
        prunable(body, self.roles)

    def rehearse_(self, model: Any) -> Loader:
        body = anatomy.of(model)
        self.check(body)
        return body.loads_with

    def checked(self, body: Anatomy) -> list[Weight]:
        """The weights that count. Raises as `check` does, and where one is not finite."""
        self.check(body)
        weights = prunable(body, self.roles)
        require_finite(weights)
        return weights

    def report(self, body: Anatomy, cuts: tuple[Cut, ...], seconds: float) -> SparsityReport:
        """What was zeroed: sizes stay."""
        count = body.parameter_count()
        return SparsityReport(
            method=self.method,
            config=self.model_dump(mode="json"),
            cuts=cuts,
            parameters_before=count,
            parameters_after=count,
            zeros=sum(cut.before - cut.after for cut in cuts),
            loads_with=body.loads_with,
            seconds=seconds,
        )

    def start_(self, model: Any, seed: int = 0) -> HeldZeros:
        """Zero weights of a model that has not been trained; they stay zero while it is (see `sparsity.start`).

        Args:
            seed: of the run, beside the method's own.
        """
        self.model_copy(update={"seed": self.seed + seed}).apply_(model)
        weights = prunable(anatomy.of(model), self.roles)
        return HeldZeros(list({id(weight.parameter): weight.parameter for weight in weights}.values()))


class WeightPruning(ZeroingConfig):
    """Set the weights with the lowest scores to zero."""

    score: WeightScore = "magnitude"
    """`magnitude` of the weights, or `random`: the baseline."""

    @abstractmethod
    def masks(self, weights: Sequence[Weight]) -> Iterator[Tensor]:
        """For each weight a bool mask in canonical shape: True where it stays."""

    def remark(self, weight: Weight) -> str:
        """What the report says about a weight besides its numbers."""
        return ""

    def apply_(self, model: Any, batches: Sequence[Batch] = (), objective: Objective | None = None) -> SparsityReport:
        start = time.perf_counter()
        body = model if isinstance(model, Anatomy) else anatomy.of(model)
        weights = self.checked(body)
        with anatomy.touched(body, self.method):
            cuts = zero_(weights, self.masks(weights), self.remark)
        return self.report(body, cuts, time.perf_counter() - start)


@torch.no_grad()
def zero_(
    weights: Sequence[Weight], masks: Iterable[Tensor], remark: Callable[[Weight], str] = lambda weight: ""
) -> tuple[Cut, ...]:
    """Zero what the masks do not keep, and say how much of each weight that is."""
    cuts = []
    for weight, mask in zip(weights, masks, strict=True):
        weight.write_(weight.read().masked_fill(~mask, 0.0))
        expert = "" if weight.expert is None else f"expert {weight.expert}"
        about = ", ".join(words for words in (weight.role, expert, remark(weight)) if words)
        cuts.append(Cut(f"{weight.name} ({about})", mask.numel(), int(mask.sum())))
    return tuple(cuts)
