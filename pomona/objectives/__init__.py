"""What a model is trained to do. An objective corrupts the text and computes the loss."""

from __future__ import annotations

from pomona.objectives.electra import Electra, ElectraConfig
from pomona.objectives.masked_lm import MaskedLm, MaskedLmConfig
from pomona.objectives.meap import Meap, MeapConfig
from pomona.objectives.meco import Meco, MecoConfig
from pomona.objectives.mp3_position_prediction import Mp3, Mp3Config
from pomona.objectives.next_token import NextToken, NextTokenConfig
from pomona.objectives.span_corruption import SpanCorruption, SpanCorruptionConfig
from pomona.objectives.ul2 import Ul2, Ul2Config

__all__ = [
    "Electra",
    "ElectraConfig",
    "MaskedLm",
    "MaskedLmConfig",
    "Meap",
    "MeapConfig",
    "Meco",
    "MecoConfig",
    "Mp3",
    "Mp3Config",
    "NextToken",
    "NextTokenConfig",
    "SpanCorruption",
    "SpanCorruptionConfig",
    "Ul2",
    "Ul2Config",
]
