"""APER: adapt the model once, on the first session; then class means of old and adapted features side by side.

Source: Zhou et al., "Revisiting Class-Incremental Learning with Pre-Trained Models: Generalizability and Adaptivity are
All You Need", IJCV 2024, arXiv:2303.07338, Sec. 4 and 5 (there ADAM, later APER).
Implements: a copy of the model is adapted to the classes of the first session and frozen for ever after; features are
    those of the model and of the copy, concatenated; the prototype of every class, the first ones too, is the mean of
    its features, and the answer the class of the smallest angle. `adapted: false` is SimpleCIL, the model alone.
Deviations: how the copy is adapted is said by whoever calls (`Adapt`; the stage `learn` takes any adapter that merges
    into the weights), with the linear head of the model's classifier. The feature of a text is the mean state of its
    tokens, where the paper reads the class token of an image; `pool: first` is the paper's.
Use when: texts are unlike what the model was trained on, and the first session has enough classes to learn that from.
    Cost: training on the first session; then two passes over each text, and 2 D + 1 numbers for each class.
Relations: with an adapter that learns nothing it ranks classes as SimpleCIL: doubled features have the same angles.
    `nmc-baseline` goes by distance, over features of length 1.
Limits: models with one stack that read tokens, of a family for which transformers has a classifier of texts.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from transformers import PreTrainedModel

from pomona import anatomy
from pomona.continual.config import ContinualConfig
from pomona.continual.learner import Adapt
from pomona.continual.nearest import NearestMean
from pomona.ground.errors import ConfigError


class AperConfig(ContinualConfig):
    """Answer with the nearest class mean of the features of a model and of its adapted copy."""

    refines: ClassVar[bool] = True

    method: Literal["aper"] = "aper"
    adapted: bool = True
    """Whether there is an adapted copy; false: the model alone (SimpleCIL)."""

    @property
    def adapts(self) -> bool:
        return self.adapted

    def learner(self, model: PreTrainedModel, adapt: Adapt | None = None, *, seed: int = 0) -> NearestMean:
        """Nothing is drawn here; `adapt` has its own seed."""
        return aper(model, adapt, self)


def aper(model: PreTrainedModel, adapt: Adapt | None = None, config: AperConfig | None = None) -> NearestMean:
    """The learner.

    Raises:
        ConfigError: it is to be adapted, and nobody says how.
        UnsupportedModel: as `ContinualConfig.check`.
    """
    config = config or AperConfig()
    config.check(anatomy.of(model))
    if config.adapted and adapt is None:
        raise ConfigError(
            "aper adapts a copy of the model", needs="`adapt`, which trains it", do="give one, or set adapted: false"
        )
    return NearestMean([model], metric="cosine", pool=config.pool, refine=adapt if config.adapted else None)
