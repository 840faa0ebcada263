"""Hugging Face's Trainer with its own defaults: fused AdamW, linear decay, clipping at 1, `bf16=True`."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.meter import Meter
from benchmarks.shapes import SHAPES, make_model


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of tokens (N, T+1) as the Trainer wants them: labels are the inputs, the model shifts them."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.from_numpy(self.rows[index, :-1].astype(np.int64))
        return {"input_ids": tokens, "labels": tokens}


class Ticks(TrainerCallback):
    """One tick per optimizer step."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.meter.tick()


def train_step(meter: Meter, *, shape: str = "reference") -> None:
    """Steps on random tokens, for as long as the harness likes: one tick each."""
    sizes = SHAPES[shape]
    rows = np.random.default_rng(0).integers(0, sizes.vocab_size, (64 * sizes.sequences, sizes.context + 1))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            bf16=True,
            use_cpu=True,
            per_device_train_batch_size=sizes.sequences,
            max_steps=1_000_000,
            learning_rate=1e-3,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1_000_000,
        )
        Trainer(make_model(sizes), arguments, train_dataset=Rows(rows), callbacks=[Ticks(meter)]).train()
