"""Learning labels in sessions, a few classes at a time, without ever seeing earlier texts again."""

from __future__ import annotations

from pomona.continual.aper import AperConfig
from pomona.continual.config import ContinualConfig
from pomona.continual.learner import Adapt, Learner, Session
from pomona.continual.nearest import NearestMean
from pomona.continual.nmc_baseline import NmcBaselineConfig
from pomona.continual.protocol import Course, course, division, session_of
from pomona.continual.prototypes import Prototypes
from pomona.continual.sequential_probe import SequentialProbeConfig

__all__ = [
    "Adapt",
    "AperConfig",
    "ContinualConfig",
    "Course",
    "Learner",
    "NearestMean",
    "NmcBaselineConfig",
    "Prototypes",
    "SequentialProbeConfig",
    "Session",
    "course",
    "division",
    "session_of",
]
