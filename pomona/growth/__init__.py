"""Making a trained model larger."""

from __future__ import annotations

from pomona.growth.bert2bert import Bert2BertConfig, bert2bert_
from pomona.growth.g_stack import GrowthTiming, GStackConfig, g_stack_, growth_timing, suggest_timing
from pomona.growth.report import GrowthReport

__all__ = [
    "Bert2BertConfig",
    "GStackConfig",
    "GrowthReport",
    "GrowthTiming",
    "bert2bert_",
    "g_stack_",
    "growth_timing",
    "suggest_timing",
]
