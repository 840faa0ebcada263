"""Modular merging: pull each domain's expert back towards the base, then add up what they changed, trimmed.

Source: Corbeil et al., "A Modular Approach for Clinical SLMs Driven by Synthetic Data with Pre-Instruction Tuning,
Model Merging, and Clinical-Tasks Alignment", 2025, arXiv:2505.10717, Sec. 3 (MediPhi).
Implements: for each expert and tensor the point at `t` of the arc from base to expert (SLERP), which keeps general
    skills; then BreadCrumbs: theta = theta_0 + sum of w_i m_i (pulled_i - theta_0) / sum of w_i, where m_i leaves out
    the largest `outliers` share of changes and the smallest beyond a `density` share.
Deviations: the shares and t are the usual choices, the publication does not name them. Left out: training of the
    experts (stages `continue` or `adapt` on each corpus), pre-instruction tuning on question-like pairs, and the
    alignment of the merged model by supervised fine-tuning and DPO.
Use when: one small model shall serve several domains, whose corpora come, go and are licensed one by one. Choose t and
    density on text that is not the test's. Cost: one pass over the parents, two selections for each tensor of each
    expert.
Relations: `breadcrumbs` at t = 1; `slerp` with one expert, density 1 and no outliers; `linear` with both.
Limits: experts of one base, with its tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from pomona.merging.arc import slerp
from pomona.merging.config import Parents, TensorMerge, WeightedConfig
from pomona.merging.deltas import breadcrumbs_mask, moved_by_mean, wide


class ModularSlmMergeConfig(WeightedConfig):
    """Pull every expert towards the base, then merge them trimmed."""

    method: Literal["modular-slm-merge"] = "modular-slm-merge"
    t: float = Field(default=0.5, gt=0, le=1)
    """How far from the base each expert stays: 1 leaves it as it is. The usual grid is 0.25, 0.5, 0.75."""
    density: float = Field(default=0.9, gt=0, le=1)
    """The share of entries of each tensor whose changes are kept."""
    outliers: float = Field(default=0.01, ge=0, lt=1)
    """The share of entries of each tensor that is left out because they change the most."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.density + self.outliers > 1 + 1e-9:
            raise ValueError(f"density {self.density} and outliers {self.outliers} are more than all entries")
        return self

    def merger(self, parents: Parents) -> TensorMerge:
        return lambda name, base, experts: modular_slm_merge(
            base, experts, parents.weights, t=self.t, density=self.density, outliers=self.outliers
        )


def modular_slm_merge(
    base: Tensor, experts: Sequence[Tensor], weights: Sequence[float], *, t: float, density: float, outliers: float
) -> Tensor:
    """base + the weighted mean of masked changes of the experts, each pulled to `t` of its arc; in the wider dtype."""
    changes = (slerp(base, expert, t) - wide(base) for expert in experts)
    masked = (each * breadcrumbs_mask(each.abs(), density, outliers) for each in changes)
    return moved_by_mean(base, masked, weights)
