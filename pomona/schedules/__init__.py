"""Learning rate over time. A schedule is a pure function of the step, so a resumed run needs no state of it."""

from __future__ import annotations

from pomona.schedules.infinite_lr import InfiniteLrConfig, InfiniteSchedule
from pomona.schedules.rewarm import RewarmConfig, RewarmSchedule
from pomona.schedules.warmup_cosine import WarmupCosineConfig, warmup_cosine
from pomona.schedules.warmup_stable_decay import WarmupStableDecayConfig, warmup_stable_decay

__all__ = [
    "InfiniteLrConfig",
    "InfiniteSchedule",
    "RewarmConfig",
    "RewarmSchedule",
    "WarmupCosineConfig",
    "WarmupStableDecayConfig",
    "warmup_cosine",
    "warmup_stable_decay",
]
