"""A hand-written loop in the manner of the Muon speed runs.

torch.optim.Muon for the matrices and fused AdamW for the rest, normalised queries and keys, residual outputs that
start at zero, warm-up - stable - decay, autocast to bf16, torch.compile around model and loss.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.meter import Meter
from benchmarks.shapes import SHAPES, Shape
from benchmarks.tokens import validation_loss


def rotate(x_BNTH: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
    """Rotary positions: halves are the two coordinates."""
    left, right = x_BNTH.chunk(2, -1)
    return torch.cat([left * cos_TH - right * sin_TH, right * cos_TH + left * sin_TH], -1).type_as(x_BNTH)


class Block(nn.Module):
    """Attention with normalised queries and keys, and a gated feed-forward layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        size, wide, self.heads = shape.hidden_size, shape.intermediate_size, shape.heads
        self.norm_attention, self.norm_ffn = nn.RMSNorm(size, eps=1e-6), nn.RMSNorm(size, eps=1e-6)
        self.query, self.key, self.value, self.output = (nn.Linear(size, size, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(size, wide, bias=False), nn.Linear(size, wide, bias=False)
        self.down = nn.Linear(wide, size, bias=False)

    def forward(self, x_BTD: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
        batch, length, size = x_BTD.shape
        normed = self.norm_attention(x_BTD)
        query, key, value = (
            linear(normed).view(batch, length, self.heads, -1).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        query = rotate(functional.rms_norm(query, query.shape[-1:]), cos_TH, sin_TH)
        key = rotate(functional.rms_norm(key, key.shape[-1:]), cos_TH, sin_TH)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x_BTD = x_BTD + self.output(mixed.transpose(1, 2).reshape(batch, length, size))
        normed = self.norm_ffn(x_BTD)
        return x_BTD + self.down(functional.silu(self.gate(normed)) * self.up(normed))


class Model(nn.Module):
    """The reference model with normalised queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=1e-6)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        for block in self.blocks:
            nn.init.zeros_(block.output.weight)
            nn.init.zeros_(block.down.weight)
        head = shape.hidden_size // shape.heads
        angles = torch.outer(torch.arange(shape.context), 10_000.0 ** (-torch.arange(0, head, 2) / head))
        self.register_buffer("cos_TH", angles.cos(), persistent=False)
        self.register_buffer("sin_TH", angles.sin(), persistent=False)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        x_BTD = self.embedding(ids_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, self.cos_TH, self.sin_TH)
        return functional.linear(self.norm(x_BTD), self.embedding.weight)

    def loss(self, rows: Tensor) -> Tensor:
        """Mean nats per token over rows (B, T+1)."""
        return functional.cross_entropy(self(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def warmup_stable_decay(step: int, steps: int, warmup: int, decay: float) -> float:
    """Factor on the rates: linear up, flat, linear down to zero over the last share `decay`."""
    return min((step + 1) / max(1, warmup), 1.0, (steps - step) / max(1.0, decay * steps))


def train(
    meter: Meter,
    *,
    tokens_folder: str,
    folder: str,
    tokens: int,
    batch_size: int,
    muon_rate: float,
    adam_rate: float,
    warmup: float = 0.02,
    decay: float = 0.5,
    weight_decay: float = 0.0,
    shape: str = "reference",
    compiled: bool = True,
) -> None:
    """Train on `tokens` tokens and save the weights (event `trained`), then evaluate (event `evaluated`)."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    sizes = SHAPES[shape]
    rows = np.load(Path(tokens_folder) / "train.npy", mmap_mode="r")[: tokens // sizes.context]
    model = Model(sizes)
    matrices = [parameter for parameter in model.blocks.parameters() if parameter.ndim == 2]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=muon_rate, momentum=0.95, weight_decay=weight_decay),
        torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    steps = len(rows) // batch_size
    scales = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_stable_decay(step, steps, round(warmup * steps), decay)
        )
        for optimizer in optimizers
    ]
    loss_of = torch.compile(model.loss) if compiled else model.loss
    for step in range(steps):
        batch = torch.from_numpy(rows[step * batch_size : (step + 1) * batch_size].astype(np.int64))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(batch)
        loss.backward()
        for optimizer, scale in zip(optimizers, scales, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            scale.step()
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(dict(model.state_dict()), Path(folder) / "model.safetensors")
    meter.report("trained", steps=steps)
    meter.report("evaluated", loss=validation_loss(model.eval(), Path(tokens_folder)))
