"""Nearest mean classifier: freeze the model, average the features of each class, answer with the nearest mean.

Source: Janson et al., "A Simple Baseline that Questions the Use of Pretrained-Models in Continual Learning", 2022,
arXiv:2210.04428, Sec. 3.
Implements: features of length 1, a mean for each class, the nearest by Euclidean distance among the classes so far.
    Means are not brought to length 1, as in the released code. Sums are float64; a class can be forgotten, texts taken
    out and two states merged, up to rounding (`Prototypes`).
Deviations: the feature of a text is the mean state of its tokens, where the paper reads the class token of an image;
    `pool: first` is the paper's.
Use when: anything learns in sessions: whatever does not beat it needs no further thought. Cost: one pass over each text
    without gradients; D + 1 numbers for each class.
Relations: `aper` without adaptation differs by the angle in place of the distance, and by features of any length.
Limits: models with one stack that read tokens.
"""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedModel

from pomona import anatomy
from pomona.continual.config import ContinualConfig
from pomona.continual.learner import Adapt
from pomona.continual.nearest import NearestMean


class NmcBaselineConfig(ContinualConfig):
    """Answer with the nearest class mean of a frozen model's features."""

    method: Literal["nmc-baseline"] = "nmc-baseline"

    def learner(self, model: PreTrainedModel, adapt: Adapt | None = None, *, seed: int = 0) -> NearestMean:
        """Nothing is drawn and nothing adapted."""
        return nmc_baseline(model, self)


def nmc_baseline(model: PreTrainedModel, config: NmcBaselineConfig | None = None) -> NearestMean:
    """The learner. Raises `UnsupportedModel` as `ContinualConfig.check`."""
    config = config or NmcBaselineConfig()
    config.check(anatomy.of(model))
    return NearestMean([model], metric="euclidean", unit=True, pool=config.pool)
