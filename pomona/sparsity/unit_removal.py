"""What the methods that remove heads and features share: parameters, scoring, cutting, reporting."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, NonNegativeInt

from pomona import anatomy
from pomona.anatomy import Anatomy, Space
from pomona.ground.errors import ConfigError
from pomona.sparsity.calibration import Calibration
from pomona.sparsity.config import PruningConfig
from pomona.sparsity.report import Cut, Loader, SparsityReport
from pomona.sparsity.selection import Scope, keep_highest
from pomona.sparsity.unit_scores import Score, Scores, magnitude_scores, random_scores, taylor_scores
from pomona.sparsity.units import cut_, require_separate

if TYPE_CHECKING:
    from pomona.engine import Batch, Objective


class UnitRemoval(PruningConfig):
    """Remove the units with the lowest scores."""

    fraction: float = Field(default=0.25, gt=0.0, lt=1.0)
    """Share of the units that go; of every attention or feed-forward at least one stays."""
    score: Score = "taylor"
    """`taylor`: the estimated change of the loss. `magnitude`: the size of its weights. `random`."""
    scope: Scope = "block"
    """`block`: as many in every block, which transformers can often load. `global`: the lowest of the whole model."""
    seed: NonNegativeInt = 0
    """Of random scores."""

    @abstractmethod
    def spaces(self, body: Anatomy) -> list[Space]:
        """The spaces whose coordinates are the units."""

    @property
    def multiple(self) -> int:
        """How many units stay is rounded up to a multiple of this."""
        return 1

    @property
    def passes(self) -> float:
        return 2.0 if self.score == "taylor" else 0.0

    def check(self, body: Anatomy) -> None:
        spaces = self.spaces(body)
        require_separate(body, spaces, self.method)
        alike = {space: torch.ones(space.size, dtype=torch.float64) for space in spaces}
        if not self._choose(alike):
            sizes = sorted(
                {str(space.size if space.parent is None else space.size // space.parent.size) for space in spaces}
            )
            raise ConfigError(
                f"{self.method} would remove nothing",
                found=f"fraction {self.fraction} of {' or '.join(sizes)} units that stand together",
                do="choose a larger fraction",
            )

    def rehearse_(self, model: Any) -> Loader | None:
        body = anatomy.of(model)
        self.check(body)
        if self.scope == "global":
            return None
        return cut_(body, self._choose(random_scores(self.spaces(body), 0))).loads_with

    def apply_(self, model: Any, batches: Sequence[Batch] = (), objective: Objective | None = None) -> SparsityReport:
        start = time.perf_counter()
        body = model if isinstance(model, Anatomy) else anatomy.of(model)
        self.check(body)
        data = Calibration(body, batches, objective, self.method) if self.needs_batches else None
        kept = self._choose(self._scores(body, data))
        with anatomy.touched(body, self.method):
            plan = cut_(body, kept)
        return SparsityReport(
            method=self.method,
            config=self.model_dump(mode="json"),
            cuts=tuple(Cut(str(space), space.size, len(own), tuple(own)) for space, own in kept.items()),
            parameters_before=plan.parameters_before,
            parameters_after=plan.parameters_after,
            loads_with=plan.loads_with,
            tokens=data.tokens if data else 0,
            flops=data.flops if data else 0.0,
            seconds=time.perf_counter() - start,
        )

    def _scores(self, body: Anatomy, data: Calibration | None) -> Scores:
        spaces = self.spaces(body)
        if data is not None:
            return taylor_scores(data, spaces)
        return magnitude_scores(body, spaces) if self.score == "magnitude" else random_scores(spaces, self.seed)

    def _choose(self, scores: Scores) -> dict[Space, list[int]]:
        """The units that stay, of the spaces that lose some."""
        kept = keep_highest(scores, self.fraction, self.scope, self.multiple)
        return {space: indices for space, indices in kept.items() if len(indices) < space.size}
