"""Task arithmetic: add up what the experts changed, and scale it.

Source: Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv:2212.04089, Sec. 2.
Implements: theta = theta_0 + scale * sum of w_i (theta_i - theta_0). A negative weight makes the model forget.
Deviations: none. The paper chooses the scale on held-out data; the default is what arXiv:2306.01708 takes without any.
Use when: the experts know different tasks; or to take a behaviour away (`weights: [-1]`).
Cost: one pass over the parents.
Relations: `linear` with scale 1/n. `ties` and `breadcrumbs` first clear away what disturbs others.
Limits: experts of one base. With many of them the sum grows: lower the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import field_validator
from torch import Tensor

from pomona.merging.config import MergeConfig, Parents, TensorMerge, check_weights
from pomona.merging.deltas import change, moved


class TaskArithmeticConfig(MergeConfig):
    """Add up what the experts changed, and scale it."""

    method: Literal["task-arithmetic"] = "task-arithmetic"
    scale: float = 0.4
    """Factor of the sum."""
    weights: tuple[float, ...] | None = None
    """A factor for each expert, in their order; negative to forget. Default: 1 each."""

    @field_validator("weights")
    @classmethod
    def _weights_do_something(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and (not weights or 0.0 in weights):
            raise ValueError("no expert has the weight 0; leave out an expert that shall not count")
        return weights

    def check(self, experts: int) -> None:
        super().check(experts)
        check_weights(self.weights, experts)

    def factors(self, experts: int) -> tuple[float, ...]:
        return self.weights or super().factors(experts)

    def merger(self, parents: Parents) -> TensorMerge:
        return lambda name, base, experts: task_arithmetic(base, experts, parents.weights, self.scale)


def task_arithmetic(base: Tensor, experts: Sequence[Tensor], weights: Sequence[float], scale: float) -> Tensor:
    """base + scale * sum of w_i (expert_i - base), in the wider dtype.

    Example:
        >>> import torch
        >>> task_arithmetic(torch.tensor([1.0]), [torch.tensor([2.0]), torch.tensor([4.0])], [1, 1], 0.5).tolist()
        [3.0]
    """
    return moved(base, (change(expert, base) for expert in experts), weights, scale)
