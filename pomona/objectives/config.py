"""What the parameters of an objective say beside `build`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pomona.ground.config import MethodConfig

if TYPE_CHECKING:
    from pomona.anatomy import Anatomy


class ObjectiveConfig(MethodConfig):
    """The parameters of an objective: `build(tokenizer)` makes it, the rest is for the stages around it.

    Attributes:
        heads: classes of transformers that make the model it trains; of those that know a configuration, the first
            whose model it wants.
        scored_as: the objective by which a trained model is judged, where training is deliberately harder than use
            (hidden inputs, mixtures of tasks); None: by itself.
    """

    heads: ClassVar[tuple[str, ...]] = ("AutoModelForCausalLM",)
    scored_as: ClassVar[str | None] = None

    def wants(self, body: Anatomy) -> bool:
        """Whether a model has the head that it trains. Asked on the meta device, for the choice among `heads`."""
        return True
