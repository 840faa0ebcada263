"""What the parameters of an objective may say beside `build`."""

from __future__ import annotations

from typing import ClassVar

from pomona.ground.config import MethodConfig


class ObjectiveConfig(MethodConfig):
    """The parameters of an objective that has something to say to the stages.

    Attributes:
        scored_as: the objective by which a trained model is judged, where training is deliberately harder than use
            (hidden inputs, mixtures of tasks); None: by itself.
    """

    scored_as: ClassVar[str | None] = None
