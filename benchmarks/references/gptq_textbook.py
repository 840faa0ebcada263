"""GPTQ as a textbook would write it: the paper's Algorithm 1, one column at a time. Slow, plain, the yardstick."""

from __future__ import annotations

import torch
from torch import Tensor


def gptq_textbook(
    weight_OI: Tensor,
    hessian_II: Tensor,
    *,
    bits: int,
    group_size: int | None,
    symmetric: bool = False,
    damping: float = 0.01,
    block_size: int = 128,
) -> Tensor:
    """Quantize a weight and return its dequantized values, in the dtype of `weight_OI`.

    Args:
        weight_OI: the weight, (outputs, inputs).
        hessian_II: second moments of the inputs.
        group_size: columns per scale; None: the whole row. Groups are fitted when their first column is reached.
    """
    weight, hessian = weight_OI.clone(), hessian_II.clone()
    columns, top = weight.shape[1], 2**bits - 1
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)

    scale, zero = fit_min_max(weight, top, symmetric)
    quantized = torch.zeros_like(weight)
    for begin in range(0, columns, block_size):
        end = min(begin + block_size, columns)
        block = weight[:, begin:end].clone()
        errors = torch.zeros_like(block)
        inner = factor[begin:end, begin:end]
        for i in range(end - begin):
            if group_size is not None and (begin + i) % group_size == 0:
                last = min(begin + i + group_size, columns)
                here = block[:, i : i + group_size]
                if last > end:
                    here = torch.cat([here, weight[:, end:last]], dim=1)
                scale, zero = fit_min_max(here, top, symmetric)
            column, pivot = block[:, i], inner[i, i]
            code = torch.clamp(torch.round(column / scale) + zero, 0, top)
            value = scale * (code - zero)
            quantized[:, begin + i] = value
            error = (column - value) / pivot
            block[:, i:] -= error.unsqueeze(1) * inner[i, i:].unsqueeze(0)
            errors[:, i] = error
        weight[:, end:] -= errors @ factor[begin:end, end:]
    return quantized


def fit_min_max(weight_OI: Tensor, top: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point (O,) of the min-max grid that holds zero."""
    low = weight_OI.min(1).values.clamp(max=0)
    high = weight_OI.max(1).values.clamp(min=0)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    empty = (low == 0) & (high == 0)
    low[empty], high[empty] = -1, 1
    scale = (high - low) / top
    zero = torch.full_like(scale, (top + 1) / 2) if symmetric else torch.round(-low / scale)
    return scale, zero
