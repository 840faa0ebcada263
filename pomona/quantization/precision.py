"""How exactly float32 matrix products are computed, switched for a block of code and restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pomona.ground.machine import has_fast_bfloat16


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Set the precision of float32 matrix products ("highest", "high", "medium") for the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Let float32 matrix products on a CPU with bf16 units round their operands to bf16; sums stay in float32.

    Twice as fast. Used for calibration passes and Hessians: the Hessian is then exactly that of inputs rounded to
    bf16, which differ by 1 part in 500 at random, far below the damping.
    """
    with products("medium" if device.type == "cpu" and has_fast_bfloat16() else torch.get_float32_matmul_precision()):
        yield
