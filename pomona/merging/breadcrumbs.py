"""Model Breadcrumbs: leave out the largest and the smallest changes of each expert, average the rest.

Source: Davari, Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks", ECCV 2024,
    arXiv:2312.06795, Sec. 3; shares and mean as arXiv:2505.10717 uses it.
Implements: d_i = theta_i - theta_0; in each tensor the largest `outliers` share of |d_i| is left out, and of the rest
    the smallest, so that a `density` share of all entries remains; theta = theta_0 + scale * sum of w_i m_i d_i / sum
    of w_i.
Deviations: a density instead of the paper's share of small entries. Among entries of equal size the first are kept.
    Every tensor keeps at least one entry. The mean and not the sum: the paper's alpha is scale / n.
Use when: several experts of one base are merged, more of them over time, without tuning for each. Cost: one pass over
    the parents, with two selections in linear time for each tensor of each expert.
Relations: `linear` with density 1 and outliers 0. `ties` keeps outliers and lets the experts vote about signs.
Limits: experts of one base.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from pomona.merging.config import Parents, TensorMerge, WeightedConfig
from pomona.merging.deltas import breadcrumbs_mask, change, moved_by_mean


class BreadcrumbsConfig(WeightedConfig):
    """Leave out the largest and the smallest changes of each expert, average the rest."""

    method: Literal["breadcrumbs"] = "breadcrumbs"
    density: float = Field(default=0.9, gt=0, le=1)
    """The share of entries of each tensor that is kept."""
    outliers: float = Field(default=0.01, ge=0, lt=1)
    """The share of entries of each tensor that is left out because they are the largest."""
    scale: float = 1.0
    """Factor of the mean change."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.density + self.outliers > 1 + 1e-9:
            raise ValueError(f"density {self.density} and outliers {self.outliers} are more than all entries")
        return self

    def merger(self, parents: Parents) -> TensorMerge:
        return lambda name, base, experts: breadcrumbs(
            base, experts, parents.weights, self.density, self.outliers, self.scale
        )


def breadcrumbs(
    base: Tensor,
    experts: Sequence[Tensor],
    weights: Sequence[float],
    density: float,
    outliers: float,
    scale: float = 1.0,
) -> Tensor:
    """base + scale * the weighted mean of the masked changes, in the wider dtype."""
    changes = (change(expert, base) for expert in experts)
    masked = (each * breadcrumbs_mask(each.abs(), density, outliers) for each in changes)
    return moved_by_mean(base, masked, weights, scale)
