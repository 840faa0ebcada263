"""Emergence: how weights gather at zero while a model is trained, from its stored checkpoints.

Source: arXiv:2306.03805, Sec. 4 (abrupt sparsification during pre-training). What counts as near zero is measured
against the spread that each matrix had at the start; the paper's code does not say how it did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.ground.errors import ConfigError
from pomona.sparsity.weight_scores import prunable

NEAR = (1e-3, 1e-2, 1e-1)
"""How near to zero counts, in standard deviations of a matrix at the start of training."""


@dataclass(frozen=True)
class WeightStatistics:
    """How the weights of a model are spread.

    Args:
        near_zero: how near, in initial standard deviations -> share of all weights that are nearer to zero.
        gini: mean over matrices of the inequality of |w|: 0 when all are equal, near 1 when few hold everything.
        kurtosis: mean over matrices of E[(w - mean)^4] / var^2: 3 for a normal distribution, more with heavier tails.
    """

    near_zero: Mapping[float, float]
    gini: float
    kurtosis: float


def initial_spread(model: Any, roles: Sequence[str] = ()) -> dict[str, float]:
    """The standard deviation of every matrix of a model at the start of its training, for `weight_statistics`."""
    return {name: float(values.std(correction=0)) for name, values in _matrices(model, roles)}


def weight_statistics(model: Any, spread: Mapping[str, float], roles: Sequence[str] = ()) -> WeightStatistics:
    """How the weights of a checkpoint are spread; the same roles and model class as for `spread`.

    Raises:
        ConfigError: the checkpoint has other matrices.
    """
    near = dict.fromkeys(NEAR, 0)
    ginis, kurtoses, size = [], [], 0
    for name, values in _matrices(model, roles):
        if name not in spread:
            raise ConfigError(f"{name} has no initial spread", do="take it from the first checkpoint of this training")
        size += values.numel()
        for width in NEAR:
            near[width] += int((values.abs() < width * spread[name]).sum())
        ginis.append(gini(values))
        kurtoses.append(kurtosis(values))
    shares = {width: count / size for width, count in near.items()}
    return WeightStatistics(shares, sum(ginis) / len(ginis), sum(kurtoses) / len(kurtoses))


def gini(values: Tensor) -> float:
    """Inequality of absolute values, in [0, 1): sum over ranks i of (2 i - n - 1) |w|_(i) / (n * sum |w|).

    Example:
        >>> gini(torch.tensor([1.0, -1.0])), gini(torch.tensor([0.0, 0.0, 0.0, 2.0]))
        (0.0, 0.75)
    """
    ordered = values.double().abs().flatten().sort().values
    count = len(ordered)
    ranks = 2 * torch.arange(1, count + 1, dtype=torch.float64, device=ordered.device) - count - 1
    total = float(ordered.sum())
    return float((ranks * ordered).sum()) / (count * total) if total else 0.0


def kurtosis(values: Tensor) -> float:
    """Fourth standardized moment; 0 where all values are equal."""
    apart = values.double() - values.double().mean()
    variance = float(apart.square().mean())
    return float(apart.pow(4).mean()) / variance**2 if variance else 0.0


def change_point(series: Sequence[float]) -> int | None:
    """Where a series changes its level: the split into two constants with the least squared error.

    Returns:
        Index of the first value of the new level; None when the split explains less than half of the variance, or
        when a straight line, a mere drift, explains as much.
    """
    values = torch.tensor(series, dtype=torch.float64)
    total = _spread(values)
    if len(values) < 4 or total <= 1e-24 * float(values.square().sum()):
        return None
    left = [_spread(values[:place]) + _spread(values[place:]) for place in range(1, len(values))]
    best = min(range(len(left)), key=left.__getitem__)
    steps = torch.arange(len(values), dtype=torch.float64)
    steps -= steps.mean()
    along_line = total - float((steps * values).sum()) ** 2 / float(steps.square().sum())
    return best + 1 if left[best] < min(0.5 * total, along_line) else None


def _spread(values: Tensor) -> float:
    return float((values - values.mean()).square().sum())


def _matrices(model: Any, roles: Sequence[str]) -> list[tuple[str, Tensor]]:
    body = model if isinstance(model, Anatomy) else anatomy.of(model)
    found = []
    for weight in prunable(body, roles):
        expert = "" if weight.expert is None else f".{weight.expert}"
        found.append((f"{weight.name} {weight.role}{expert}", weight.read()))
    return found
