"""N:M sparsity: of every M consecutive inputs of an output, the N largest weights stay.

Source: "Accelerating Sparse Deep Neural Networks", 2021, arXiv:2104.08378, Sec. 3 (2:4 and what hardware makes of it);
"Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", ICLR 2021, arXiv:2102.04010, Eq. 2;
one shot on pre-trained models as in arXiv:2306.03805, Sec. 4.
Implements: the N largest |w| of each group of M along the inputs, whatever the weight's storage: transposed, fused, and
    those of each expert. Of equal ones the first goes.
Deviations: none. Left out: training with the straight-through estimate.
Use when: 2:4 for processors with sparse products; any N:M as a constraint between `magnitude` and whole units. Cost:
    one pass over the weights; no data.
Relations: 1:M to M-1:M are one-shot curves next to those of `magnitude` at sparsity 1 - N/M.
Limits: where the inputs are no multiple of M, the last ones stay as they are, and the report says so. Without sparse
    kernels nothing gets faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from pomona.anatomy import Anatomy, Weight
from pomona.ground.errors import UnsupportedModel
from pomona.sparsity.report import SparsityReport
from pomona.sparsity.weight_pruning import WeightPruning
from pomona.sparsity.weight_scores import prunable, scores_of


class NMSparsityConfig(WeightPruning):
    """Keep N of every M consecutive inputs."""

    method: Literal["n-m-sparsity"] = "n-m-sparsity"
    pattern: str = Field(default="2:4", pattern=r"^[1-9]\d*:[1-9]\d*$")
    """N:M, how many stay of how many: 2:4, 4:8, 1:2 ..."""

    @field_validator("pattern")
    @classmethod
    def _fewer_stay(cls, pattern: str) -> str:
        keep, group = map(int, pattern.split(":"))
        if keep >= group:
            raise ValueError("of N:M, N has to be smaller than M")
        return pattern

    @property
    def n_m(self) -> tuple[int, int]:
        """How many stay, of how many."""
        keep, group = map(int, self.pattern.split(":"))
        return keep, group

    @property
    def sparsity(self) -> float:
        """The share of the weights that are zero afterwards."""
        keep, group = self.n_m
        return 1.0 - keep / group

    def check(self, body: Anatomy) -> None:
        group = self.n_m[1]
        for weight in prunable(body, self.roles):
            if weight.shape[1] < group:
                raise UnsupportedModel(
                    f"{self.method} cannot make {weight.name} {self.pattern} sparse (nothing was changed)",
                    needs=f"at least {group} inputs",
                    found=f"{weight.shape[1]} inputs of {weight.role}",
                    do="choose another pattern, or leave it out: name the others as roles",
                )

    def remark(self, weight: Weight) -> str:
        rest = weight.shape[1] % self.n_m[1]
        return f"its last {rest} inputs whole" if rest else ""

    def masks(self, weights: Sequence[Weight]) -> Iterator[Tensor]:
        for scores in scores_of(weights, self.score, self.seed):
            yield n_m_mask(scores, *self.n_m)


def n_m_mask(scores_OI: Tensor, keep: int, group: int) -> Tensor:
    """(O, I) bool: True at the `keep` highest scores of every `group` consecutive inputs; of equal ones the first goes.

    The last I mod `group` inputs, which make no group, stay.

    Example:
        >>> n_m_mask(torch.tensor([[3.0, 1.0, 2.0, 0.0, 0.0]]), 2, 4).tolist()
        [[True, False, True, False, True]]
    """
    outputs, inputs = scores_OI.shape
    whole = inputs - inputs % group
    grouped = scores_OI[:, :whole].float().reshape(outputs, -1, group)
    going = grouped.argsort(dim=-1, stable=True)[..., : group - keep]
    mask = torch.ones(outputs, inputs, dtype=torch.bool, device=scores_OI.device)
    mask[:, :whole] = torch.ones_like(grouped, dtype=torch.bool).scatter_(-1, going, False).view(outputs, whole)
    return mask


def n_m_sparsity_(model: Any, config: NMSparsityConfig | None = None) -> SparsityReport:
    """Zero all but N of every M weights of `model` in place; see `PruningConfig.apply_`."""
    return (config or NMSparsityConfig()).apply_(model)
