"""What every method that learns in sessions offers."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from transformers import PreTrainedModel

from pomona.anatomy import Anatomy
from pomona.continual.features import Pool
from pomona.continual.learner import Adapt, Learner
from pomona.ground.config import MethodConfig
from pomona.ground.errors import UnsupportedModel


class ContinualConfig(MethodConfig):
    """The parameters of one method. It does not change the model that it is given."""

    refines: ClassVar[bool] = False
    """Whether it can ask for an adapted copy of the model."""

    pool: Pool = "mean"
    """The state that stands for a text: the mean over its tokens, that of the first, or that of the last."""

    @property
    def adapts(self) -> bool:
        """Whether it asks for an adapted copy of the model, with these parameters."""
        return self.refines

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the features of texts can be read from this model."""
        if len(body.stacks) > 1 or not body.vocab_size:
            raise UnsupportedModel(
                f"{self.method} cannot read the features of {type(body.model).__name__}",
                needs="one stack that reads tokens: an encoder or a decoder",
                found=f"{len(body.stacks)} stacks, {body.vocab_size} tokens",
                do="choose another model",
            )

    @abstractmethod
    def learner(self, model: PreTrainedModel, adapt: Adapt | None = None, *, seed: int = 0) -> Learner:
        """A learner that has seen nothing.

        Args:
            model: with any head or none; it stays as it is.
            adapt: called where `adapts`, with the session to adapt to.
            seed: of what is drawn.
        """
