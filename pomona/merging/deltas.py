"""Arithmetic that several methods share: what experts changed, sums of it, signs, and the largest of it.

All of it is done in a dtype wider than that of the parents, float32 for 16-bit weights and float64 for float32, and
rounded once at the end. A change expert - base is exact in it unless the two differ by more than 2^16 (2^29 for
float32) in magnitude; so weights that an expert did not change stay bit for bit, and so do those that all experts share
where a method takes a mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """The same numbers in the dtype of the arithmetic: float32 for 16-bit floats, float64 for wider ones."""
    return tensor.to(torch.float32 if tensor.dtype.itemsize < 4 else torch.float64)


def change(expert: Tensor, base: Tensor) -> Tensor:
    """What training moved: expert - base, in the wider dtype."""
    return wide(expert) - wide(base)


def moved(base: Tensor, changes: Iterable[Tensor], weights: Sequence[float], scale: float = 1.0) -> Tensor:
    """base + scale * sum of w_i d_i, with the d_i in the wider dtype and used one after another."""
    total = torch.zeros_like(wide(base))
    for weight, each in zip(weights, changes, strict=True):
        total += each * weight
    return wide(base) + total * scale


def moved_by_mean(base: Tensor, changes: Iterable[Tensor], weights: Sequence[float], scale: float = 1.0) -> Tensor:
    """base + scale * sum of w_i d_i / sum of w_i. Divided last, so that equal changes give exactly themselves."""
    total = torch.zeros_like(wide(base))
    for weight, each in zip(weights, changes, strict=True):
        total += each * weight
    return wide(base) + total / sum(weights) * scale


def moved_by_majority(base: Tensor, changes: Sequence[Tensor], weights: Sequence[float], scale: float = 1.0) -> Tensor:
    """base + scale * the mean of the changes that have the elected sign (TIES, arXiv:2306.01708, Sec. 3: steps 2, 3).

    The sign of sum of w_i d_i is elected entry by entry; the weighted mean is over the d_i of that sign. Where the sum
    is zero nobody is elected, and the entry stays.
    """
    total = torch.zeros_like(wide(base))
    for weight, each in zip(weights, changes, strict=True):
        total += each * weight
    elected = total.sign()
    total.zero_()
    count = torch.zeros_like(total)
    for weight, each in zip(weights, changes, strict=True):
        agrees = (each.sign() == elected) & (elected != 0)
        total += torch.where(agrees, each * weight, 0)
        count += agrees * weight
    return wide(base) + total / count.where(count > 0, 1) * scale


def largest(magnitude: Tensor, count: int) -> Tensor:
    """A mask of exactly `count` entries, the largest ones; among equal ones the first.

    Args:
        magnitude: any shape, not negative, without NaN.
        count: 0 to the number of entries.
    """
    flat = magnitude.flatten()
    if count <= 0:
        return torch.zeros_like(magnitude, dtype=torch.bool)
    if count >= flat.numel():
        return torch.ones_like(magnitude, dtype=torch.bool)
    threshold = flat.kthvalue(flat.numel() - count + 1).values
    mask = flat > threshold
    equal = flat == threshold
    mask |= equal & (equal.cumsum(0) <= count - int(mask.sum()))
    return mask.view(magnitude.shape)


def breadcrumbs_mask(magnitude: Tensor, density: float, outliers: float) -> Tensor:
    """Which entries are kept: round(density * n) of n, at least one, and none of the floor(outliers * n) largest.

    Example:
        >>> import torch
        >>> breadcrumbs_mask(torch.tensor([9.0, 1.0, 5.0, 2.0]), density=0.5, outliers=0.25).tolist()
        [False, False, True, True]
    """
    count = magnitude.numel()
    above = int(outliers * count + 1e-9)
    kept = min(max(1, round(density * count)), count - above)
    return largest(magnitude, above + kept) & ~largest(magnitude, above)


def dot(a: Tensor, b: Tensor) -> float:
    """Inner product of two tensors, summed in float64."""
    return float((a * b).sum(dtype=torch.float64))
