"""TIES: keep each expert's largest changes, elect a sign for every entry, average the changes that agree with it.

Source: Yadav, Tam, Choshen, Raffel, Bansal, "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023,
    arXiv:2306.01708, Sec. 3 and Algorithm 1.
Implements: (1) trim: of d_i = theta_i - theta_0 the largest `density` share over the whole model stays, the rest is
    zero; (2) elect: the sign of the sum of the d_i; (3) disjoint mean m of the d_i that have this sign; theta =
    theta_0 + scale * m. The threshold over the model is exact: two further passes over the parents count bits.
Deviations: entries as large as the threshold are all kept. Where the sum is exactly 0 the base stays (the authors' code
    takes the sign that is more frequent in the model). `weights` are not in the paper; equal ones are its method.
Use when: experts of several tasks disagree about many weights. Cost: three passes over the parents; one with
    `trim: tensor`.
Relations: `linear` for experts that agree everywhere, with density 1. `breadcrumbs` leaves out the largest as well, and
    has no election.
Limits: experts of one base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from pomona.merging.config import Parents, TensorMerge, WeightedConfig
from pomona.merging.deltas import change, largest, moved_by_majority
from pomona.merging.selection import magnitude_of_rank, ranked


class TiesConfig(WeightedConfig):
    """Keep each expert's largest changes, elect a sign for every entry, average the changes that agree with it."""

    method: Literal["ties"] = "ties"
    density: float = Field(default=0.2, gt=0, le=1)
    """The share of entries that is kept. Default: the paper's 20 %."""
    trim: Literal["model", "tensor"] = "model"
    """Whether the share is of the whole model (the paper) or of each tensor, which reads the parents only once."""
    scale: float = 1.0
    """Factor of the mean change, lambda. Default: the paper's, where there is no data to choose it on."""

    def merger(self, parents: Parents) -> TensorMerge:
        if self.trim == "tensor" or self.density == 1:
            return lambda name, base, experts: ties(
                base, experts, parents.weights, density=self.density, scale=self.scale
            )
        thresholds = [self._threshold(parents, expert) for expert in parents.experts]
        return lambda name, base, experts: ties(base, experts, parents.weights, scale=self.scale, thresholds=thresholds)

    def _threshold(self, parents: Parents, expert: Mapping[str, Tensor]) -> float:
        """The smallest magnitude that is kept of an expert's changes."""

        def magnitudes() -> Iterator[Tensor]:
            return (change(expert[name], parents.base[name]).abs() for name in parents.names)

        total = sum(parents.base[name].numel() for name in parents.names)
        return magnitude_of_rank(magnitudes, max(1, round(self.density * total)))


def ties(
    base: Tensor,
    experts: Sequence[Tensor],
    weights: Sequence[float],
    *,
    density: float = 1.0,
    thresholds: Sequence[float] | None = None,
    scale: float = 1.0,
) -> Tensor:
    """The base moved by the mean of the experts' large changes of the elected sign, in the wider dtype.

    Args:
        density: the share of entries of this tensor that is kept of each expert, at least one; without `thresholds`.
        thresholds: the smallest magnitude that is kept, for each expert.
    Example:
        >>> import torch
        >>> experts = [torch.tensor([4.0, -1.0, 3.0]), torch.tensor([2.0, 5.0, -1.0])]
        >>> ties(torch.zeros(3), experts, [1, 1]).tolist()
        [3.0, 5.0, 3.0]
    """
    changes = [change(expert, base) for expert in experts]
    for place, each in enumerate(changes):
        if thresholds is not None:
            each *= ranked(each.abs()) >= thresholds[place]
        else:
            each *= largest(each.abs(), max(1, round(density * each.numel())))
    return moved_by_majority(base, changes, weights, scale)
