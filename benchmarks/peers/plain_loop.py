"""A plain training loop in the manner of nanoGPT: autocast, torch.compile, fused AdamW, clipping, cosine decay."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from benchmarks.meter import Meter
from benchmarks.shapes import SHAPES, make_model


def train_step(meter: Meter, *, shape: str = "reference", compiled: bool = True) -> None:
    """Steps on random tokens, for ever: one tick each."""
    sizes = SHAPES[shape]
    rows = np.random.default_rng(0).integers(0, sizes.vocab_size, (64, sizes.context + 1))
    model = make_model(sizes).train()
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    step = 0
    while True:
        chosen = (np.arange(sizes.sequences) + step * sizes.sequences) % len(rows)
        update(run, model, optimizer, torch.from_numpy(rows[chosen]))
        step += 1
        meter.tick()


def update(
    run: torch.nn.Module | object, model: torch.nn.Module, optimizer: torch.optim.Optimizer, rows: torch.Tensor
) -> torch.Tensor:
    """One step on rows (B, T+1). Returns the loss, nats per token."""
    rows = rows.long()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = run(input_ids=rows[:, :-1], use_cache=False).logits  # type: ignore[operator]
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def cosine(step: int, steps: int, warmup: int, lowest: float = 0.1) -> float:
    """nanoGPT's factor on the learning rate: linear warm-up, then a cosine to a tenth."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    return lowest + 0.5 * (1 - lowest) * (1 + math.cos(math.pi * progress))
