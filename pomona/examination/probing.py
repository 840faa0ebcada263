"""What every probe offers: a check, and an examination of models on labelled texts, by numbers that can be compared."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pomona.ground.config import MethodConfig

if TYPE_CHECKING:
    from pomona.anatomy import Anatomy
    from pomona.tasks import Examples


@dataclass(frozen=True)
class Subject:
    """A model that is probed.

    Attributes:
        name: what it is called in the report. folder: of the model, with its tokenizer.
    """

    name: str
    folder: Path


@dataclass(frozen=True)
class ProbeReport:
    """What a probe found.

    Attributes:
        method: slug. config: its parameters.
        numbers: what cards and tables compare, by name.
        details: curves, lists and texts, plain values.
        flops, seconds: what it cost.
    """

    method: str
    config: Mapping[str, Any]
    numbers: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)
    flops: float = 0.0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


class ProbeConfig(MethodConfig):
    """The parameters of one probe. It changes no model that it is given."""

    @abstractmethod
    def check(self, bodies: Sequence[Anatomy]) -> None:
        """Raise unless the probe can look at these models, in their order. Computes nothing."""

    @abstractmethod
    def probe(self, subjects: Sequence[Subject], examples: Examples, *, seed: int = 0) -> ProbeReport:
        """Examine the subjects on the held-out side of the examples.

        Args:
            subjects: in an order that has a meaning for the probe, such as that of training.
            seed: of everything random.
        """
