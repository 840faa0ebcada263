"""Recipe of arm (a): the loss at which HF Trainer ends, as soon as possible.

Two blocks learn what little is needed, without a compilation, which would take longer than the run. The other four join
as the identity for the last steps.
"""

from __future__ import annotations

from benchmarks.meter import Meter
from benchmarks.recipes.phases import Phase, train_in_phases
from pomona.optimizers.muon import MuonConfig
from pomona.schedules.warmup_stable_decay import WarmupStableDecayConfig


def train(meter: Meter, *, tokens_folder: str, folder: str, shape: str = "reference", steps: int = 245) -> None:
    """Train the reference model and save it as a Hugging Face folder (event `trained`)."""
    fast = MuonConfig(learning_rate=0.015, rest_learning_rate=0.03, weight_decay=0.0)
    calm = MuonConfig(learning_rate=0.001, rest_learning_rate=0.002, weight_decay=0.0)
    decay = WarmupStableDecayConfig(warmup=0.02, decay=0.5, min_ratio=0.1)
    phases = (
        Phase(steps, 2, fast, decay, sequences=16, context=128),
        Phase(max(1, steps // 120), 6, calm, WarmupStableDecayConfig(warmup=0.0, decay=1.0), sequences=8, context=256),
    )
    made = train_in_phases(phases, tokens_folder, folder, shape, compile="never")
    meter.report("trained", steps=made)
