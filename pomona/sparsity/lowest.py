"""The lowest entries of many tensors together: exact, with ties broken by order, and without sorting or copying all.

Non-negative float32 numbers are ordered as the integers that their 31 bits spell. Two histograms, of the upper 16 bits
and of the lower 15 of those at the border, therefore find the exact threshold in two passes over tensors of any total
size. Masks are nested: what goes at a lower count goes at a higher one too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

Scores = Callable[[], Iterable[Tensor]]
"""Gives the tensors, non-negative, the same ones in the same order at every call."""

_LOW = 15


def keep_all_but_lowest(scores: Scores, count: int) -> Iterator[Tensor]:
    """For each tensor a bool mask that is False at the `count` lowest entries of all; of equal ones the first go.

    Args:
        scores: finite and non-negative; compared in float32.
        count: from 0 to the number of all entries.
    """
    threshold, ties = _threshold(scores, count)
    for tensor in scores():
        bits = _bits(tensor)
        gone = bits < threshold
        equal = bits == threshold
        if ties and bool(equal.any()):
            chosen = equal.flatten().cumsum(0).view_as(equal) <= ties
            gone |= equal & chosen
            ties -= min(ties, int(equal.sum()))
        yield ~gone


def _threshold(scores: Scores, count: int) -> tuple[int, int]:
    """The bits of the `count`-th lowest entry, and how many entries that equal it are among the lowest."""
    if count == 0:
        return -1, 0
    upper = _histogram((_bits(tensor) >> _LOW for tensor in scores()), 1 << 16)
    high, left = _place(upper, count)
    at_border = (bits[bits >> _LOW == high] & (1 << _LOW) - 1 for bits in map(_bits, scores()))
    low, left = _place(_histogram(at_border, 1 << _LOW), left)
    return (high << _LOW) + low, left


def _place(histogram: Tensor, count: int) -> tuple[int, int]:
    """The bin that holds the `count`-th lowest, and its place within this bin, from 1."""
    total = histogram.cumsum(0)
    found = int(torch.searchsorted(total, count))
    return found, count - int(total[found] - histogram[found])


def _histogram(values: Iterable[Tensor], bins: int) -> Tensor:
    total = torch.zeros(bins, dtype=torch.int64)
    for own in values:
        total += torch.bincount(own.flatten(), minlength=bins).cpu()
    return total


def _bits(scores: Tensor) -> Tensor:
    return scores.float().contiguous().view(torch.int32)
