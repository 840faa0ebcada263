"""What every adapter offers: it trains a few parameters of a model and, mostly, becomes part of its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from pomona.anatomy import Anatomy
from pomona.engine import Objective


class Adapter(ABC):
    """What a method has attached to a model, as `attach_` gives it.

    Attributes:
        mergeable: whether `merge_` leaves an ordinary model of its class.
        exact_start: whether the model computes the same as before until something is learnt.
        trains_weights: whether the model's own weights are trained, zeros among them.
        cost: FLOPs and seconds that attaching took.
    """

    mergeable: bool = True
    exact_start: bool = True
    trains_weights: bool = False
    cost: tuple[float, float] = (0.0, 0.0)

    @abstractmethod
    def merge_(self) -> None:
        """Make what was learnt part of the model's own weights, and leave nothing else behind."""

    @abstractmethod
    def detach_(self) -> None:
        """Take everything away; the model is what it was."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the adapter alone; nothing where there is none."""

    def load_(self, folder: Path) -> None:
        """Read what `save` wrote into the same adapter, attached to the same model."""
        raise NotImplementedError(f"{type(self).__name__} has no form of its own")

    def taught(self, objective: Objective, stream: Any, seed: int) -> tuple[Objective, Any]:
        """Objective and stream as the training loop shall see them, where the method has a say in each step."""
        return objective, stream

    def variants(self) -> Mapping[str, Callable[[], None]]:
        """Sizes that the trained adapter can be used at, by name, each with what sets it; empty: this one alone."""
        return {}

    def report(self) -> list[dict[str, Any]]:
        """What happened to each weight, where the method can tell."""
        return []


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

    def __init__(self, trains_weights: bool) -> None:
        self.trains_weights = trains_weights

    def merge_(self) -> None:
        """There is nothing to merge."""

    def detach_(self) -> None:
        """There is nothing to take away."""

    def save(self, folder: Path) -> None:
        """There is nothing to write."""
