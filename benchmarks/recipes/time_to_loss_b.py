"""Recipe of arm (b): the loss at which a hand-written Muon loop ends, as soon as possible.

Two blocks on short sequences first, where a step costs a third, then on whole ones while the rate decays. The other
four join as the identity for the end of the decay.
"""

from __future__ import annotations

from benchmarks.meter import Meter
from benchmarks.recipes.phases import Phase, train_in_phases
from pomona.optimizers.muon import MuonConfig
from pomona.schedules.warmup_stable_decay import WarmupStableDecayConfig


def train(meter: Meter, *, tokens_folder: str, folder: str, shape: str = "reference", steps: int = 600) -> None:
    """Train the reference model and save it as a Hugging Face folder (event `trained`)."""
    fast = MuonConfig(learning_rate=0.01, rest_learning_rate=0.02, weight_decay=0.0)
    mid = MuonConfig(learning_rate=0.01, rest_learning_rate=0.01, weight_decay=0.0)
    calm = MuonConfig(learning_rate=0.001, rest_learning_rate=0.001, weight_decay=0.0)
    stable = WarmupStableDecayConfig(warmup=0.01, decay=0.0)
    decay = WarmupStableDecayConfig(warmup=0.0, decay=1.0, min_ratio=0.1)
    phases = (
        Phase(steps, 2, fast, stable, sequences=16, context=128),
        Phase(steps * 9 // 10, 2, mid, decay, sequences=8, context=256),
        Phase(max(1, steps // 30), 6, calm, WarmupStableDecayConfig(warmup=0.0, decay=1.0), sequences=8, context=256),
    )
    made = train_in_phases(phases, tokens_folder, folder, shape, compile="always")
    meter.report("trained", steps=made)
