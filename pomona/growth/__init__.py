"""Making a trained model larger."""

from __future__ import annotations

from pomona.growth.g_stack import GrowthReport, GrowthTiming, GStackConfig, g_stack_, growth_timing, suggest_timing

__all__ = ["GStackConfig", "GrowthReport", "GrowthTiming", "g_stack_", "growth_timing", "suggest_timing"]
