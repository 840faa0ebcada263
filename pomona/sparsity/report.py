"""What pruning did to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Loader = Literal["transformers", "pomona"]
"""What loads a saved model: any transformers, or `pomona.anatomy.load`, which runs no code either."""


@dataclass(frozen=True)
class Cut:
    """What one part of a model lost.

    Args:
        part: what was cut: a space, a stack, or a weight.
        before, after: how many units it has, or entries that are not zeroed.
        kept: the units that stayed, by their old numbers in ascending order; None for single weights.
    """

    part: str
    before: int
    after: int
    kept: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SparsityReport:
    """What was removed from a model.

    Args:
        method: slug. config: its parameters.
        cuts: part by part.
        parameters_before, parameters_after: of the model.
        zeros: weights that are zero now, in matrices that kept their shape.
        loads_with: what loads the saved model.
        tokens: of calibration, each counted once. flops: of all passes. seconds: of everything.
        study: what a method found out besides, as plain values.
    """

    method: str
    config: Mapping[str, Any]
    cuts: tuple[Cut, ...]
    parameters_before: int
    parameters_after: int
    zeros: int = 0
    loads_with: Loader = "transformers"
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    study: Mapping[str, Any] | None = None

    @property
    def removed(self) -> float:
        """The share of the parameters that are gone or zero."""
        return 1.0 - (self.parameters_after - self.zeros) / self.parameters_before

    @property
    def note(self) -> str:
        """A few words for a table."""
        if self.zeros:
            return f"{self.method}, {self.zeros / sum(cut.before for cut in self.cuts):.0%} of the weights zero"
        return f"{self.method}, {self.removed:.0%} of the parameters gone"

    def __str__(self) -> str:
        sizes = f"{self.parameters_before:,} to {self.parameters_after:,} parameters"
        zeros = f", {self.zeros:,} of them zero" if self.zeros else ""
        return f"{self.method}: {sizes}{zeros}; loads with {self.loads_with}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {**asdict(self), "removed": self.removed}
