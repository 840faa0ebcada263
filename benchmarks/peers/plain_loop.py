"""A plain training loop in the manner of nanoGPT: autocast, torch.compile, fused AdamW, clipping."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.meter import Meter
from benchmarks.shapes import SHAPES, make_model


def train_step(meter: Meter, *, shape: str = "reference", compiled: bool = True) -> None:
    """Steps on random tokens, for ever: one tick each."""
    sizes = SHAPES[shape]
    rows = np.random.default_rng(0).integers(0, sizes.vocab_size, (64, sizes.context + 1))
    model = make_model(sizes).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    loss_of = partial(mean_loss, model)
    if compiled:
        loss_of = torch.compile(loss_of)
    step = 0
    while True:
        chosen = (np.arange(sizes.sequences) + step * sizes.sequences) % len(rows)
        update(loss_of, model, optimizer, torch.from_numpy(rows[chosen]))
        step += 1
        meter.tick()


def mean_loss(model: nn.Module, rows: Tensor) -> Tensor:
    """Mean nats per token over rows (B, T+1). Model and loss are compiled as one, as in nanoGPT."""
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def update(
    loss_of: Callable[[Tensor], Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor
) -> Tensor:
    """One step on rows (B, T+1). Returns the loss, nats per token."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(rows)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()
