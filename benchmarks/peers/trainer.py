"""Hugging Face's Trainer with its own defaults: fused AdamW, linear decay, clipping at 1; `bf16=True`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.meter import Meter
from benchmarks.shapes import SHAPES, make_model
from benchmarks.tokens import validation_loss


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


def _arguments(folder: str, batch_size: int, learning_rate: float, **more: Any) -> TrainingArguments:
    return TrainingArguments(
        folder,
        bf16=True,
        use_cpu=True,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=50,
        **more,
    )


def train_step(meter: Meter, *, shape: str = "reference", folder: str = "runs/benchmarks/trainer") -> None:
    """Steps on random tokens, for as long as the harness likes: one tick each."""
    sizes = SHAPES[shape]
    rows = np.random.default_rng(0).integers(0, sizes.vocab_size, (64 * sizes.sequences, sizes.context + 1))
    arguments = _arguments(folder, sizes.sequences, 1e-3, max_steps=1_000_000)
    Trainer(make_model(sizes), arguments, train_dataset=Rows(rows), callbacks=[Ticks(meter)]).train()


def train(
    meter: Meter,
    *,
    tokens_folder: str,
    folder: str,
    tokens: int,
    batch_size: int,
    learning_rate: float,
    warmup: float = 0.0,
    schedule: str = "linear",
    shape: str = "reference",
) -> None:
    """Train on `tokens` tokens and save the model (event `trained`), then evaluate it (event `evaluated`).

    Args:
        warmup: share of the steps.
    """
    sizes = SHAPES[shape]
    rows = np.load(Path(tokens_folder) / "train.npy", mmap_mode="r")[: tokens // sizes.context]
    steps = len(rows) // batch_size
    arguments = _arguments(
        folder,
        batch_size,
        learning_rate,
        max_steps=steps,
        warmup_steps=round(warmup * steps),
        lr_scheduler_type=schedule,
    )
    trainer = Trainer(make_model(sizes), arguments, train_dataset=Rows(rows))
    trainer.train()
    trainer.save_model(folder)
    meter.report("trained", steps=steps)
    model = trainer.model.eval()
    meter.report("evaluated", loss=validation_loss(lambda ids: model(input_ids=ids).logits, Path(tokens_folder)))
