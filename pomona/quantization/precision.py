"""How exactly things are computed, switched for a block of code and restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import torch

from pomona.anatomy import use_attention
from pomona.ground.errors import UnsupportedModel
from pomona.ground.machine import has_fast_bfloat16

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Compute float32 matrix products with "highest", "high" or "medium" precision in the block, without autocast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def fast_calibration(model: PreTrainedModel) -> Iterator[None]:
    """Run a float32 model's calibration in bf16 on a processor that has it; elsewhere change nothing.

    Linear maps and attention take bf16 operands, sums and the residual stream stay in float32, and so do Hessians, but
    for their operands. What is calibrated on then differs at random by 1 part in 500 or so, far below the damping.
    """
    parameter = next(model.parameters())
    with ExitStack() as stack:
        if parameter.device.type == "cpu" and parameter.dtype == torch.float32 and has_fast_bfloat16():
            stack.enter_context(products("medium"))
            # without the cache: the weights change within this block
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False))
            with suppress(UnsupportedModel):  # its attention cannot be chosen: it keeps its own
                stack.enter_context(use_attention(model))
        yield
