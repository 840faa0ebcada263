"""KIVI (arXiv:2402.02750): keep everything in two bits, keys by channel and values by token."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from pomona.examination.scbench.policies.policy import BYTES, CachePolicy, Kept


class Kivi(CachePolicy):
    """Keys rounded in groups of tokens, values in groups of channels; the latest tokens in full."""

    policy: Literal["kivi"] = "kivi"
    bits: Annotated[int, Field(ge=1, le=16)] = 2
    """Of a number; 16 leaves all as it is."""
    group: PositiveInt = 32
    """Numbers that share a scale and a zero."""
    residual: NonNegativeInt = 32
    """Latest tokens that are not rounded yet, at least."""

    def view(self, kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        rounded = max(0, key.shape[1] - self.residual) // self.group * self.group
        if self.bits == 16 or not rounded:
            return key, value, None
        heads, _, width = key.shape
        by_channel = key[:, :rounded].reshape(heads, -1, self.group, width)
        keys = rounded_to(by_channel, self.bits, 2).reshape(heads, rounded, width)
        size = min(self.group, width)
        padded = torch.nn.functional.pad(value[:, :rounded], (0, -width % size), mode="replicate")
        values = rounded_to(padded.reshape(heads, rounded, -1, size), self.bits, 3).reshape(heads, rounded, -1)
        return (
            torch.cat([keys, key[:, rounded:]], 1),
            torch.cat([values[..., :width], value[:, rounded:]], 1),
            None,
        )

    def bytes(self, tokens: int, heads: int, width: int) -> int:
        rounded = 0 if self.bits == 16 else max(0, tokens - self.residual) // self.group * self.group
        numbers = rounded * width
        scales = 2 * BYTES * (numbers // self.group + rounded * -(-width // min(self.group, width)))
        return heads * (2 * BYTES * (tokens - rounded) * width + 2 * numbers * self.bits // 8 + scales)

    def scaled(self, factor: float) -> Kivi:
        return self


def rounded_to(numbers: Tensor, bits: int, dim: int) -> Tensor:
    """Each group along `dim` on an even grid from its least to its largest number."""
    low, high = numbers.amin(dim, keepdim=True), numbers.amax(dim, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-12)
    on_grid: Tensor = ((numbers - low) / step).round() * step + low
    return on_grid
