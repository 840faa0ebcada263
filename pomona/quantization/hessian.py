"""The second moments of a linear map's inputs: H = 2/n sum of x x^T over n calibration tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from pomona.ground.machine import has_fast_bfloat16
from pomona.quantization.precision import products

_PANEL = 256


class RunningHessian:
    """Accumulates H over batches of inputs; how the inputs are split into batches does not matter.

    Sums are kept in float32 (float64 for float64 inputs), whatever the inputs' dtype: in half precision they would
    overflow or lose positive definiteness. The paper counts sequences, here n counts tokens: the scale of H matters
    for nothing but the errors that are reported.
    """

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self.tokens = 0
        self._sum: Tensor | None = None

    def add(self, rows_RI: Tensor) -> None:
        """Take in the inputs (R, I) of R tokens."""
        rows_RI = rows_RI.detach()
        rows_RI = rows_RI if rows_RI.dtype == torch.float64 else rows_RI.float()
        if self._sum is None:
            self._sum = rows_RI.new_zeros(self.inputs, self.inputs)
        for begin in range(0, self.inputs, _PANEL):  # by symmetry the panels from the diagonal on are enough
            panel = self._sum[begin : begin + _PANEL, begin:]
            panel.addmm_(rows_RI[:, begin : begin + _PANEL].t(), rows_RI[:, begin:])
        self.tokens += rows_RI.shape[0]

    def value(self) -> Tensor:
        """H, (I, I), symmetric. Raises `ValueError` when nothing was added."""
        if self._sum is None or not self.tokens:
            raise ValueError("no calibration input reached this weight")
        upper = self._sum.triu()
        return (upper + upper.triu(1).t()).mul_(2 / self.tokens)

    @property
    def flops(self) -> float:
        """Floating-point operations so far."""
        panels = range(0, self.inputs, _PANEL)
        entries = sum(min(_PANEL, self.inputs - begin) * (self.inputs - begin) for begin in panels)
        return 2.0 * self.tokens * entries


def weighted_error(deviation_OI: Tensor, hessian_II: Tensor, *, fast: bool = False) -> float:
    """trace(D H D^T) / 2: the mean over tokens of the squared deviation of the outputs, summed over outputs.

    Args:
        fast: multiply in bf16 where the hardware does. Good to two or three digits for deviations that were not made
            small on purpose, such as those of round-to-nearest; otherwise large terms cancel and their rounding shows.
    """
    fast = fast and deviation_OI.dtype == torch.float32 and has_fast_bfloat16()
    left, middle = (deviation_OI.bfloat16(), hessian_II.bfloat16()) if fast else (deviation_OI, hessian_II)
    total = 0.0
    with products("highest"):
        for begin in range(0, deviation_OI.shape[1], _PANEL):
            end = begin + _PANEL
            product = (left[:, begin:end] @ middle[begin:end, begin:end]).to(deviation_OI.dtype)
            if begin:  # by symmetry what lies left of the diagonal counts twice
                product.add_(left[:, :begin] @ middle[:begin, begin:end], alpha=2)
            total += product.mul_(deviation_OI[:, begin:end]).sum(dtype=torch.float64).item()
    return total / 2
