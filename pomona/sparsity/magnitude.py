"""Magnitude: zero the smallest weights, in one shot.

Source: "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, arXiv:1506.02626, Sec. 3
(the smallest weights go); one shot on pre-trained models as in arXiv:2306.03805, Sec. 3; densities of Erdos-Renyi
kernels as in "Rigging the Lottery", ICML 2020, arXiv:1911.11134, Sec. 3.
Implements: of P weights, P - round((1 - s) P) with the smallest |w| become zero: over all matrices together (`global`),
    in each matrix (`uniform`), or with density proportional to (outputs + inputs) / (outputs * inputs) (`erk`). Equal
    weights go in their order, so that masks can be made again, and those of a lower sparsity are contained in those of
    a higher one.
Deviations: none. Left out: pruning and retraining in turns; apply it again after training for that.
Use when: as the baseline of every other way to sparsify, or up to the sparsity that costs nothing, which
    `essential-sparsity` finds. Cost: two passes over the weights; no data, and no copy of them.
Relations: `n-m-sparsity` does the same within small groups, which hardware can use. `random` scores are the control.
Limits: matrices keep their size: files and products become no smaller without sparse kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from pomona.anatomy import Weight
from pomona.sparsity.lowest import keep_all_but_lowest
from pomona.sparsity.report import SparsityReport
from pomona.sparsity.weight_pruning import WeightPruning
from pomona.sparsity.weight_scores import scores_of

Allocation = Literal["global", "uniform", "erk"]


class MagnitudeConfig(WeightPruning):
    """Zero the smallest weights."""

    method: Literal["magnitude"] = "magnitude"
    sparsity: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Share of the weights that are zero afterwards; those that were zero before count."""
    allocation: Allocation = "global"
    """One threshold for all matrices (`global`, the paper's), the same share of each (`uniform`), or `erk`: a larger
    share of larger matrices."""

    def masks(self, weights: Sequence[Weight]) -> Iterator[Tensor]:
        if self.allocation == "global":
            every = partial(scores_of, weights, self.score, self.seed)
            yield from keep_all_but_lowest(every, zeros_of(sum(weight.numel() for weight in weights), self.sparsity))
            return
        shapes = [(weight.shape[0], weight.shape[1]) for weight in weights]
        counts = [zeros_of(rows * columns, self.sparsity) for rows, columns in shapes]
        if self.allocation == "erk":
            counts = erk_zeros(shapes, sum(counts))
        for scores, count in zip(scores_of(weights, self.score, self.seed), counts, strict=True):
            yield from keep_all_but_lowest(lambda scores=scores: [scores], count)  # type: ignore[misc]


def zeros_of(size: int, sparsity: float) -> int:
    """How many of `size` weights are zero at a sparsity."""
    return size - round((1.0 - sparsity) * size)


def erk_zeros(shapes: Sequence[tuple[int, int]], zeros: int) -> list[int]:
    """How many entries of each matrix go, `zeros` in all up to rounding: densities e * (O + I) / (O * I), at most 1.

    Example:
        >>> erk_zeros([(10, 10), (10, 90)], 500)
        [17, 483]
    """
    sizes = [rows * columns for rows, columns in shapes]
    full: set[int] = set()
    while True:  # matrices that would keep more than all of their entries keep all, which leaves less for the others
        rest = [place for place in range(len(shapes)) if place not in full]
        stay = sum(sizes) - zeros - sum(sizes[place] for place in full)
        scale = stay / sum(sum(shapes[place]) for place in rest)
        over = {place for place in rest if scale * sum(shapes[place]) > sizes[place]}
        if not over:
            break
        full |= over
    return [
        0 if place in full else size - round(scale * sum(shape))
        for place, (size, shape) in enumerate(zip(sizes, shapes, strict=True))
    ]


def magnitude_(model: Any, config: MagnitudeConfig | None = None) -> SparsityReport:
    """Zero the smallest weights of `model` in place; see `PruningConfig.apply_`."""
    return (config or MagnitudeConfig()).apply_(model)
