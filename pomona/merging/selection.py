"""The k-th largest of numbers that are never in memory together, exactly, in two passes.

The bits of a float32 that is not negative, read as an integer, are in the order of the numbers. The first pass counts
the upper 16 bits, the second the lower 15 of those numbers whose upper bits are the ones looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

LOW = 15
"""Bits that the second pass counts; the sign bit is zero, so 16 are left for the first."""


def ranked(magnitude: Tensor) -> Tensor:
    """The dtype in which magnitudes are compared: float32."""
    return magnitude.to(torch.float32)


def magnitude_of_rank(magnitudes: Callable[[], Iterable[Tensor]], rank: int) -> float:
    """The `rank`-th largest, from 1, of all entries of the tensors that `magnitudes()` gives, rounded to float32.

    Args:
        magnitudes: gives the same tensors at every call; entries are not negative, and none is NaN.

    Example:
        >>> magnitude_of_rank(lambda: [torch.tensor([1.0, 5.0]), torch.tensor([3.0])], rank=2)
        3.0
    """
    high, rest = _bin(_counts(magnitudes(), None), rank)
    low, _ = _bin(_counts(magnitudes(), high), rest)
    return float(torch.tensor((high << LOW) | low, dtype=torch.int32).view(torch.float32))


def _counts(magnitudes: Iterable[Tensor], high: int | None) -> Tensor:
    """How often each value of the upper bits occurs; with `high`, of the lower bits below these upper ones."""
    counts = torch.zeros(1 << (16 if high is None else LOW), dtype=torch.int64)
    for magnitude in magnitudes:
        bits = ranked(magnitude).contiguous().view(torch.int32).flatten()
        upper = bits >> LOW
        counted = upper if high is None else bits[upper == high] & ((1 << LOW) - 1)
        counts += torch.bincount(counted, minlength=len(counts))
    return counts


def _bin(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the `rank`-th largest, and its rank within this bin."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, rank))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, rank - before
