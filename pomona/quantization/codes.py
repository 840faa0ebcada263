"""A weight held as codes, scales and zero points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd

import torch
from torch import Tensor

from pomona.quantization.grid import Grid, dequantize, quantize


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix (O, I) on a grid: the value at (o, i) is scale[o, g] * (codes[o, i] - zero[o, g]), g the group of i.

    Args:
        codes: (O, I) uint8, in [0, 2^bits - 1].
        scale: (O, G) float32 (or float64).
        zero: (O, G) whole numbers in the dtype of `scale`.
        bits: width of a code.
        group_size: columns per group; None: one group per row.
        symmetric: every zero point is 2^(bits-1) and need not be stored.
        group_index: (I,) the group of every column; None: column i belongs to group i // group_size.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: int
    group_size: int | None
    symmetric: bool
    group_index: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def groups(self) -> Tensor:
        """(I,) the group of every column."""
        if self.group_index is not None:
            return self.group_index
        return column_groups(self.codes.shape[1], self.group_size, self.codes.device)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight (O, I), in the dtype of the scales or in `dtype`."""
        groups = self.groups
        return dequantize(self.codes, self.scale[:, groups], self.zero[:, groups]).to(dtype or self.scale.dtype)

    def stored_bits(self, scale_bits: int = 16) -> int:
        """Bits of codes, scales, zero points and, where there is one, the group index."""
        outputs, inputs = self.shape
        zero_bits = 0 if self.symmetric else self.bits
        index_bits = 0 if self.group_index is None else 32 * inputs
        return outputs * inputs * self.bits + self.scale.numel() * (scale_bits + zero_bits) + index_bits

    def rows(self, start: int, stop: int) -> QuantizedWeight:
        """The rows [start, stop) as a weight of its own."""
        part = slice(start, stop)
        return replace(self, codes=self.codes[part], scale=self.scale[part], zero=self.zero[part])

    def with_whole_groups(self) -> QuantizedWeight:
        """The same values with a group size that divides the inputs: a shorter last group makes groups finer.

        1376 columns in groups of 128 become groups of 32 (their greatest common divisor) that repeat the scales.
        Raises `ValueError` for a weight with a group index, which has no such form.
        """
        if self.group_size is None or (self.group_index is None and self.codes.shape[1] % self.group_size == 0):
            return self
        return self.with_groups_of(gcd(self.codes.shape[1], self.group_size))

    def with_groups_of(self, size: int) -> QuantizedWeight:
        """The same values in finer groups that repeat the scales.

        Raises `ValueError` unless `size` divides the inputs and the group size, or there is a group index.
        """
        inputs = self.codes.shape[1]
        width = inputs if self.group_size is None else self.group_size
        if self.group_index is not None:
            raise ValueError("groups that are not consecutive columns cannot be made finer")
        if inputs % size or width % size:
            raise ValueError(f"groups of {width} in {inputs} columns cannot be cut into groups of {size}")
        parents = torch.arange(0, inputs, size, device=self.codes.device) // width
        return replace(self, scale=self.scale[:, parents], zero=self.zero[:, parents], group_size=size)


def column_groups(inputs: int, group_size: int | None, device: torch.device | None = None) -> Tensor:
    """(I,) the group of every column when groups are consecutive columns."""
    columns = torch.arange(inputs, device=device)
    return torch.zeros_like(columns) if group_size is None else columns // group_size


def on_grid(
    weight_OI: Tensor, scale_OG: Tensor, zero_OG: Tensor, grid: Grid, group_index: Tensor | None = None
) -> QuantizedWeight:
    """Round every weight to the nearest point of a grid that is already fitted."""
    width = grid.width(weight_OI.shape[1])
    groups = column_groups(weight_OI.shape[1], width, weight_OI.device) if group_index is None else group_index
    codes = quantize(weight_OI.to(scale_OG.dtype), scale_OG[:, groups], zero_OG[:, groups], grid.bits)
    return QuantizedWeight(
        codes.to(torch.uint8), scale_OG, zero_OG, grid.bits, grid.group_size, grid.symmetric, group_index
    )
