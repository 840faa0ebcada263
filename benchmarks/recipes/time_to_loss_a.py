"""Recipe of arm (a): the loss at which HF Trainer ends, as soon as possible."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.meter import Meter
from benchmarks.shapes import SHAPES, make_model
from pomona import anatomy
from pomona.data import Tokens, TokenStream
from pomona.engine import FitConfig, fit
from pomona.objectives.next_token import NextTokenConfig
from pomona.optimizers.muon import MuonConfig
from pomona.schedules.warmup_stable_decay import WarmupStableDecayConfig


def train(meter: Meter, *, tokens_folder: str, folder: str, shape: str = "reference", steps: int = 112) -> None:
    """Train the reference model and save it as a Hugging Face folder (event `trained`)."""
    sizes = SHAPES[shape]
    tokens = Tokens.open(Path(tokens_folder) / "tokens")
    model = make_model(sizes)
    body = anatomy.of(model)
    with torch.no_grad():
        for block in body.blocks:  # every block starts as the identity
            block.attention.output.parameter.zero_()
            block.ffn.down.parameter.zero_()
    fit(
        model,
        NextTokenConfig().build(),
        TokenStream(tokens.train, batch_size=min(8, sizes.sequences), seq_length=sizes.context, seed=0),
        MuonConfig(learning_rate=0.02, rest_learning_rate=6e-3, weight_decay=0.0).build(body, total_steps=steps),
        WarmupStableDecayConfig(warmup=0.02, decay=0.5, shape="linear").build(steps),
        steps=steps,
        config=FitConfig(compile="never"),
    )
    model.save_pretrained(folder)
    meter.report("trained", steps=steps)
