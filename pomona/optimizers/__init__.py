"""Rules that turn gradients into steps."""

from __future__ import annotations

from pomona.optimizers.adamw import AdamW, AdamwConfig
from pomona.optimizers.conda import Conda, CondaConfig
from pomona.optimizers.muon import Muon, MuonConfig
from pomona.optimizers.sophia import Sophia, SophiaConfig

__all__ = ["AdamW", "AdamwConfig", "Conda", "CondaConfig", "Muon", "MuonConfig", "Sophia", "SophiaConfig"]
