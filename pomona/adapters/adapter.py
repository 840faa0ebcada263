"""What every adapter offers: it trains a few parameters of a model and becomes part of its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import nn

from pomona.anatomy import Anatomy


class Adapter(ABC):
    """What a method has attached to a model, as `attach_` gives it.

    Attributes:
        mergeable: whether `merge_` leaves an ordinary model of its class.
    """

    mergeable: bool = True

    @abstractmethod
    def merge_(self) -> None:
        """Make what was learnt part of the model's own weights, and leave nothing else behind."""


class AdapterConfig(Protocol):
    """What the configuration of an adapter offers beside its parameters."""

    method: str

    def attach_(self, body: Anatomy, *, head: Sequence[nn.Parameter] = (), seed: int = 0) -> Adapter:
        """Attach to a model in place: from then on, what the adapter trains and `head` alone require gradients.

        Args:
            body: of the model; refresh anatomies that were made before.
            head: parameters of the task's own head, which train as they are.
            seed: of what is drawn.
        """
        ...


def freeze_except(body: Anatomy, trained: Iterable[nn.Parameter]) -> None:
    """Let these parameters of the model alone require gradients."""
    wanted = {id(parameter) for parameter in trained}
    for parameter in body.model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)


class Nothing(Adapter):
    """The model's own parameters are trained, nothing is attached."""

    def merge_(self) -> None:
        """There is nothing to merge."""
