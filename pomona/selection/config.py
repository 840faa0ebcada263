"""What every selector offers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pomona.ground.config import MethodConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role = Literal["teacher", "reference"]
"""What a model that scores the corpus is to a selector: a good model of the text, or a small one to compare it with."""


class SelectionConfig(MethodConfig):
    """The base of every selector: how much is kept, and by what."""

    ratio: float = Field(default=0.5, gt=0.0, le=1.0)
    """Share of the chunks that is kept, rounded down."""

    models: ClassVar[tuple[Role, ...]] = ()

    @property
    def roles(self) -> tuple[Role, ...]:
        """The models whose likelihoods the scores are made from."""
        return self.models

    @abstractmethod
    def scores(self, nats: Mapping[Role, NDArray[np.float32]], count: int) -> NDArray[np.float64]:
        """(count,) score of each chunk; the highest are kept, and among equal ones the first.

        Args:
            nats: of each of `roles`, (count,) nats per token of every chunk.
            count: chunks.
        """
