"""The grid of representable values: fit it to a weight, round onto it, and back. Pure functions.

A weight of shape (O, I) is cut into groups of consecutive input columns; each row of each group has a scale s and an
integer zero point z, and a code c in [0, 2^bits - 1] stands for s * (c - z). Zero is always on the grid.

Source: Frantar et al., "GPTQ", ICLR 2023, arXiv:2210.17323, Sec. 4 (the uniform per-row min-max grid), and the
authors' code for the search of a smaller clipping range (|error|^2.4 over 80 shrunken ranges).
Deviation: the symmetric grid spans [-max|w|, max|w|] also for a row without negative weights, where the authors' code
halves the range it can reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pomona.ground.errors import ConfigError

MIN_BITS, MAX_BITS = 2, 8
CLIP_STEPS, CLIP_GRID, CLIP_POWER = 80, 100, 2.4
_AT_ONCE_ELEMENTS = 65_536
"""Weights times fractions of the clip search that are tried together."""
_CLIP_ELEMENTS = 1 << 18  # rows are searched in pieces of this many weights, so that a piece stays in the cache


@dataclass(frozen=True)
class Grid:
    """How a weight is represented.

    Args:
        bits: width of a code, 2 to 8.
        group_size: input columns that share a scale in a row; None: the whole row. A last, shorter group is allowed.
        symmetric: the zero point is fixed at 2^(bits-1), so that only scales are stored.
        clip_search: shrink each range to the fraction in (0.2, 1] with the least sum of |error|^2.4.
    """

    bits: int = 4
    group_size: int | None = None
    symmetric: bool = False
    clip_search: bool = False

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ConfigError(
                f"a grid of {self.bits} bits cannot be stored",
                needs=f"{MIN_BITS} to {MAX_BITS} bits, the widths that the packed format expresses",
                found=str(self.bits),
                do="choose bits: 4 (or 8, 3, 2)",
            )
        if self.group_size is not None and self.group_size < 1:
            raise ConfigError(
                "a group holds at least one column", found=f"group_size {self.group_size}", do="give a size, or null"
            )

    @property
    def max_code(self) -> int:
        """The largest code, 2^bits - 1."""
        return int(2**self.bits) - 1

    def width(self, inputs: int) -> int:
        """Columns per group of a weight with `inputs` columns."""
        return inputs if self.group_size is None else min(self.group_size, inputs)

    def groups(self, inputs: int) -> int:
        """Number of groups per row of a weight with `inputs` columns."""
        return -(-inputs // self.width(inputs))


def fit_grid(weight_OI: Tensor, grid: Grid, *, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Scales and zero points of a weight, Sec. 4 of the paper: the range of every row (and group), zero included.

    Args:
        weight_OI: finite weights, any float dtype; bf16 and fp16 are computed in float32.
        dtype: scales are rounded to what this dtype can hold, the dtype in which they will be stored.
    Returns:
        scale_OG > 0 and zero_OG (whole numbers in [0, 2^bits - 1]), both float32 (float64 for a float64 weight).
    """
    weight_OI = _wide(weight_OI)
    outputs, inputs = weight_OI.shape
    width, groups = grid.width(inputs), grid.groups(inputs)
    if groups * width != inputs:  # a padded zero changes neither range nor error: zero is on every grid
        weight_OI = torch.nn.functional.pad(weight_OI, (0, groups * width - inputs))
    weight_RI = weight_OI.reshape(outputs * groups, width)
    low, high = weight_RI.amin(1).clamp_(max=0), weight_RI.amax(1).clamp_(min=0)  # 10x faster than aminmax
    if grid.symmetric:
        high = torch.maximum(high, -low)
        low = -high
    empty = (low == 0) & (high == 0)
    low, high = torch.where(empty, -1.0, low), torch.where(empty, 1.0, high)
    if grid.clip_search:
        rows = max(1, _CLIP_ELEMENTS // width)
        pieces = [
            _search_clip(weight_RI[i : i + rows], low[i : i + rows], high[i : i + rows], grid, dtype)
            for i in range(0, weight_RI.shape[0], rows)
        ]
        scale, zero = (torch.cat(part) for part in zip(*pieces, strict=True))
    else:
        scale, zero = _affine(low, high, grid, dtype)
    return scale.view(outputs, groups), zero.view(outputs, groups)


def quantize(weight: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Codes clamp(round(w / s) + z, 0, 2^bits - 1), as whole numbers in the dtype of `scale`.

    All arguments broadcast: give the scale and zero point of every element's own group.
    """
    return (weight / scale).round_().add_(zero).clamp_(0, 2**bits - 1)


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The values s * (c - z) in the dtype of `scale`. All arguments broadcast."""
    return (codes.to(scale.dtype) - zero) * scale


def _affine(low: Tensor, high: Tensor, grid: Grid, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Scale and zero point that map [low, high] onto the codes."""
    scale = (high - low) / grid.max_code
    if dtype is not None and dtype != scale.dtype:
        scale = scale.to(dtype).to(scale.dtype)
    # the smallest normal number that the stored dtype can hold: a row of denormals must not divide by zero
    scale = scale.clamp(min=torch.finfo(dtype or scale.dtype).tiny)
    if grid.symmetric:
        return scale, torch.full_like(scale, 2 ** (grid.bits - 1))
    return scale, (-low / scale).round_().clamp_(0, grid.max_code)


def _search_clip(
    weight_RI: Tensor, low: Tensor, high: Tensor, grid: Grid, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """The fraction of the range with the least sum of |error|^2.4, for every row on its own."""
    best = torch.full_like(low, torch.inf)
    best_scale, best_zero = torch.empty_like(low), torch.empty_like(low)
    bottom, top = weight_RI.amin(1), weight_RI.amax(1)
    rows = torch.arange(len(low), device=low.device)
    fractions = torch.tensor([1 - step / CLIP_GRID for step in range(CLIP_STEPS)], dtype=low.dtype, device=low.device)
    done = 0
    while len(rows):
        # Few rows take many fractions at once: their arithmetic costs less than the calls.
        at_once = fractions[done : done + max(1, _AT_ONCE_ELEMENTS // weight_RI.numel())]
        done += len(at_once)
        scale, zero = _affine(at_once[:, None] * low, at_once[:, None] * high, grid, dtype)
        codes = quantize(weight_RI, scale[..., None], zero[..., None], grid.bits)
        error = dequantize(codes, scale[..., None], zero[..., None]).sub_(weight_RI).abs_().pow_(CLIP_POWER).sum(-1)
        least, which = error.min(0)
        better = (least < best[rows]).nonzero()[:, 0]
        chosen, which = rows[better], which[better]
        best[chosen], best_scale[chosen], best_zero[chosen] = least[better], scale[which, better], zero[which, better]
        if done == CLIP_STEPS:
            break
        # The farthest weight outside of the range alone loses this much, and more in every smaller range: a row that
        # loses more than its best so far is finished.
        scale, zero = _affine(fractions[done] * low, fractions[done] * high, grid, dtype)
        outside = torch.maximum(top - (grid.max_code - zero) * scale, -zero * scale - bottom)
        left = outside.clamp_(min=0).pow_(CLIP_POWER) < best[rows]
        if left.count_nonzero() <= 0.8 * len(rows):  # else gathering the rest costs more than trying all again
            weight_RI, rows, low, high, bottom, top = (each[left] for each in (weight_RI, rows, low, high, bottom, top))
    return best_scale, best_zero


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
