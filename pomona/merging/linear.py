"""Linear: the weighted mean of the experts.

Source: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time", ICML 2022, arXiv:2203.05482, Sec. 2 (uniform soup), with weights.
Implements: theta = sum of w_i theta_i / sum of w_i. The base does not count; name it among the experts if it shall.
Deviations: none. Left out: the greedy soup, which chooses its members by held-out accuracy.
Use when: the experts were trained on the same task, or are checkpoints of one run. Cost: one pass over the parents.
Relations: `task-arithmetic` with scale 1/n. `slerp` for two models, along the arc instead of the chord.
Limits: models trained from one base lie in one basin; others need `align`, which is no guarantee.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from pomona.merging.config import Parents, TensorMerge, WeightedConfig
from pomona.merging.deltas import wide


class LinearConfig(WeightedConfig):
    """Take the weighted mean of the experts."""

    method: Literal["linear"] = "linear"

    def merger(self, parents: Parents) -> TensorMerge:
        return lambda name, base, experts: linear(experts, parents.weights)


def linear(experts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of tensors of one shape, in the wider dtype.

    Example:
        >>> import torch
        >>> linear([torch.tensor([0.0, 2.0]), torch.tensor([4.0, 2.0])], [3, 1]).tolist()
        [1.0, 2.0]
    """
    total = wide(experts[0]) * weights[0]
    for weight, expert in zip(weights[1:], experts[1:], strict=True):
        total += wide(expert) * weight
    return total / sum(weights)
