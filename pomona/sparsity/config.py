"""What every pruning method offers: a check, a rehearsal without weights, and the pruning itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pomona.anatomy import Anatomy
from pomona.ground.config import MethodConfig
from pomona.sparsity.report import Loader, SparsityReport

if TYPE_CHECKING:
    from pomona.engine import Batch, Objective


class PruningConfig(MethodConfig):
    """The parameters of one pruning method."""

    @property
    def passes(self) -> float:
        """How often the calibration data goes through the model, in passes forward; 0 for methods without data."""
        return 0.0

    @property
    def needs_batches(self) -> bool:
        """Whether it looks at data, and so needs batches and an objective."""
        return self.passes > 0

    @abstractmethod
    def check(self, body: Anatomy) -> None:
        """Raise if the parameters do not fit the model, or would change nothing. Computes nothing."""

    @abstractmethod
    def rehearse_(self, model: Any) -> Loader | None:
        """Give a model on the meta device the sizes that it will have, and say what will load it.

        None, and no change, where the scores decide about sizes too.
        """

    @abstractmethod
    def apply_(self, model: Any, batches: Sequence[Batch] = (), objective: Objective | None = None) -> SparsityReport:
        """Prune `model` in place.

        Args:
            model: a transformers model, or its anatomy, which is then brought up to date.
            batches: calibration data, prepared for the objective; for methods that look at data.
            objective: runs the batches and says what the loss is.
        Raises:
            ConfigError, DataError, UnsupportedModel: nothing was changed then.
        """
