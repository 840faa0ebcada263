"""What every accelerator offers: a check, and a `with` block in which a model runs faster than before."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any, Self

from pomona.anatomy import Anatomy
from pomona.ground.config import MethodConfig


class AcceleratorConfig(MethodConfig):
    """The parameters of one method that makes a trained model run faster, without another training."""

    @abstractmethod
    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` if the method does not fit the model. Computes nothing."""

    @abstractmethod
    def attach(self, model: Any) -> AbstractContextManager[Any]:
        """Within the block the model runs faster; at its end it is as it was, to the last bit.

        Args:
            model: a transformers model, or its anatomy.
        Raises:
            UnsupportedModel: see `check`.
        """

    @abstractmethod
    def unlimited(self) -> Self:
        """The same method with a budget from which nothing is left out: the model computes what it always does."""
