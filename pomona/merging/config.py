"""What a merging method is: its parameters, and how each merged tensor follows from its versions in the parents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import field_validator
from torch import Tensor

from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError

TensorMerge = Callable[[str, Tensor, Sequence[Tensor]], Tensor]
"""(name, the base's tensor, the experts' tensors) -> the merged tensor, in the wider dtype that it was computed in."""


@dataclass(frozen=True)
class Parents:
    """The models that are merged, as tensors by name. A mapping may read a tensor from disk whenever it is asked for.

    Args:
        base: the model that the experts were trained from.
        experts: in an order that depends on their content alone, not on the order in which they were given.
        weights: one factor for each expert, in the same order.
        names: of the tensors to merge, in a fixed order; all parents have them in the same shape.
        labels: what errors call the base and the experts.
    """

    base: Mapping[str, Tensor]
    experts: tuple[Mapping[str, Tensor], ...]
    weights: tuple[float, ...]
    names: tuple[str, ...]
    labels: tuple[str, ...]


class MergeConfig(MethodConfig, ABC):
    """The parameters of a merging method."""

    least_experts: ClassVar[int] = 1
    most_experts: ClassVar[int | None] = None

    def check(self, experts: int) -> None:
        """Raise `ConfigError` if the method cannot merge so many experts. Computes nothing."""
        most = self.most_experts
        if experts < self.least_experts or (most is not None and experts > most):
            bound = f"exactly {most}" if most == self.least_experts else f"at least {self.least_experts}"
            raise ConfigError(
                f"{self.method} cannot merge {experts} experts",
                where="experts",
                needs=bound,
                found=str(experts),
                do="give others, or choose another method",
            )

    def factors(self, experts: int) -> tuple[float, ...]:
        """One factor for each expert, in the order in which they are given."""
        return (1.0,) * experts

    @abstractmethod
    def merger(self, parents: Parents) -> TensorMerge:
        """What merges one tensor. Whatever must be known of all tensors first is measured here."""


class WeightedConfig(MergeConfig):
    """A method that takes experts in shares."""

    weights: tuple[float, ...] | None = None
    """The share of each expert, in their order; only ratios count. Default: equal shares."""

    @field_validator("weights")
    @classmethod
    def _weights_are_shares(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and (not weights or min(weights) <= 0):
            raise ValueError("every expert's share is above 0; leave out an expert that shall not count")
        return weights

    def check(self, experts: int) -> None:
        super().check(experts)
        check_weights(self.weights, experts)

    def factors(self, experts: int) -> tuple[float, ...]:
        return self.weights or super().factors(experts)


def check_weights(weights: Sequence[float] | None, experts: int) -> None:
    """Raise `ConfigError` unless there is one weight for each expert, or none at all."""
    if weights is not None and len(weights) != experts:
        raise ConfigError(
            "the weights do not fit the experts",
            where="weights",
            needs=f"{experts} numbers, one for each expert",
            found=f"{len(weights)}",
        )
