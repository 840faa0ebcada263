"""A training run in phases: each with its own optimizer, schedule and batch, and growth where it asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from benchmarks.shapes import SHAPES, make_model
from pomona import anatomy
from pomona.data import Tokens, TokenStream
from pomona.engine import FitConfig, fit
from pomona.growth.g_stack import GStackConfig
from pomona.objectives.next_token import NextTokenConfig
from pomona.optimizers.muon import MuonConfig
from pomona.schedules.warmup_stable_decay import WarmupStableDecayConfig


@dataclass(frozen=True)
class Phase:
    """What is done for a number of steps; `blocks` says how deep the model is meanwhile."""

    steps: int
    blocks: int
    optimizer: MuonConfig
    schedule: WarmupStableDecayConfig
    sequences: int
    context: int


def train_in_phases(
    phases: Sequence[Phase], tokens_folder: str, folder: str, shape: str, compile: Literal["always", "never"]
) -> int:
    """Train the model of `shape` from as few blocks as the first phase has, and save it. Returns the steps made."""
    sizes = SHAPES[shape]
    tokens = Tokens.open(Path(tokens_folder) / "tokens")
    model = make_model(replace(sizes, blocks=min(phases[0].blocks, sizes.blocks)))
    with torch.no_grad():
        for block in anatomy.of(model).blocks:  # every block starts as the identity
            block.attention.output.parameter.zero_()
            block.ffn.down.parameter.zero_()
    for seed, phase in enumerate(phases):
        blocks = min(phase.blocks, sizes.blocks)
        if blocks > model.config.num_hidden_layers:
            GStackConfig(blocks=blocks, new_blocks="identity").apply_(model)
        fit(
            model,
            NextTokenConfig().build(),
            TokenStream(
                tokens.train,
                batch_size=min(phase.sequences, sizes.sequences),
                seq_length=min(phase.context, sizes.context),
                seed=seed,
            ),
            phase.optimizer.build(anatomy.of(model), total_steps=phase.steps),
            phase.schedule.build(phase.steps),
            steps=phase.steps,
            config=FitConfig(compile=compile),
        )
    model.save_pretrained(folder)
    return sum(phase.steps for phase in phases)
