"""Model Stock: how far to go from the base to the experts' mean follows from the angle between them.

Source: Jang, Yun, Han, "Model Stock: All we need is just a few fine-tuned models", ECCV 2024, arXiv:2403.19522, Sec. 4
    (two experts, and N of them); layer by layer.
Implements: per tensor, c the cosine between the changes theta_i - theta_0 of two experts,
    t = N c / (1 + (N - 1) c), theta = t * mean of theta_i + (1 - t) theta_0.
Deviations: for more than two experts c is the mean over pairs (the paper takes all angles for equal). A cosine below 0
    counts as 0, which leaves the base. Left out: merging again and again during training.
Use when: a few fine-tuned versions for one task, with other seeds or settings, shall replace an average of many.
Cost: one pass over the parents, N^2 inner products.
Relations: `linear` where all experts changed the same (t = 1); the base where they have nothing in common (t = 0).
Limits: at least two experts, of one base. Experts for different tasks have nearly orthogonal changes: little is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar, Literal

from torch import Tensor

from pomona.merging.config import MergeConfig, Parents, TensorMerge
from pomona.merging.deltas import change, dot, moved_by_mean


class ModelStockConfig(MergeConfig):
    """Go from the base towards the experts' mean, as far as they agree."""

    method: Literal["model-stock"] = "model-stock"

    least_experts: ClassVar[int] = 2

    def merger(self, parents: Parents) -> TensorMerge:
        return lambda name, base, experts: model_stock(base, experts)


def model_stock(base: Tensor, experts: Sequence[Tensor]) -> Tensor:
    """The point between `base` and the mean of at least two experts that their angle calls for, in the wider dtype."""
    changes = [change(expert, base) for expert in experts]
    squares = [dot(each, each) for each in changes]
    cosines = []
    for i, j in combinations(range(len(changes)), 2):
        product = math.sqrt(squares[i] * squares[j])
        cosines.append(dot(changes[i], changes[j]) / product if product else 0.0)
    return moved_by_mean(base, changes, [1.0] * len(changes), stock_ratio(sum(cosines) / len(cosines), len(changes)))


def stock_ratio(cosine: float, experts: int) -> float:
    """t: the share of the experts' mean, from 0 to 1.

    Example:
        >>> stock_ratio(0.0, 2), stock_ratio(0.5, 2), stock_ratio(1.0, 5)
        (0.0, 0.6666666666666666, 1.0)
    """
    cosine = min(max(cosine, 0.0), 1.0)
    return experts * cosine / (1 + (experts - 1) * cosine)
