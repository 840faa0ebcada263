"""DARE: drop most of what each expert changed at random, and enlarge the rest to make up for it.

Source: Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch",
    ICML 2024, arXiv:2311.03099, Sec. 3.2.
Implements: each entry of d_i = theta_i - theta_0 is dropped with probability p, the others are divided by 1 - p; then
    the experts are combined as by `linear`, `task-arithmetic` or `ties`.
Deviations: none. With `combine: ties` signs are elected and agreeing entries averaged, without trimming: dropping has
    thinned the changes already.
Use when: experts with small changes (within about 0.002 of the base, says the paper) get in each other's way.
Cost: one pass over the parents.
Relations: the method that it is combined with, where the drop rate is 0; in expectation also otherwise (not `ties`).
Limits: experts of one base, fine-tuned and not trained on at length, or dropping destroys them. Masks follow from the
    seed, the tensor's name and the expert, so the order of the experts does not change them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from pomona.ground.files import content_hash
from pomona.merging.config import Parents, TensorMerge, WeightedConfig
from pomona.merging.deltas import change, moved, moved_by_majority, moved_by_mean

Combination = Literal["mean", "sum", "ties"]


class DareConfig(WeightedConfig):
    """Drop most of what each expert changed at random, and enlarge the rest to make up for it."""

    method: Literal["dare"] = "dare"
    drop_rate: float = Field(default=0.9, ge=0, lt=1)
    """The probability that a change is dropped, p. Language models bear 0.9, large ones 0.99."""
    combine: Combination = "mean"
    """How the thinned changes are combined: their weighted mean, their weighted sum, or by elected signs."""
    scale: float = 1.0
    """Factor of the combined change."""
    seed: NonNegativeInt = 0
    """Seed of the choice."""

    def merger(self, parents: Parents) -> TensorMerge:
        def merge(name: str, base: Tensor, experts: Sequence[Tensor]) -> Tensor:
            generators = [_generator(self.seed, name, place) for place in range(len(experts))]
            return dare(base, experts, parents.weights, generators, self.drop_rate, self.combine, self.scale)

        return merge


def dare(
    base: Tensor,
    experts: Sequence[Tensor],
    weights: Sequence[float],
    generators: Sequence[torch.Generator],
    drop_rate: float,
    combine: Combination = "mean",
    scale: float = 1.0,
) -> Tensor:
    """The base moved by the experts' thinned changes, in the wider dtype.

    Args:
        generators: one for each expert.
    """
    thinned = (
        drop_and_rescale(change(expert, base), drop_rate, generator)
        for expert, generator in zip(experts, generators, strict=True)
    )
    if combine == "ties":
        return moved_by_majority(base, list(thinned), weights, scale)
    return (moved if combine == "sum" else moved_by_mean)(base, thinned, weights, scale)


def drop_and_rescale(change: Tensor, drop_rate: float, generator: torch.Generator) -> Tensor:
    """Each entry is zero with probability `drop_rate`, else itself divided by 1 - `drop_rate`."""
    kept = torch.rand(change.shape, generator=generator, dtype=torch.float32) >= drop_rate
    return change * kept / (1 - drop_rate)


def _generator(seed: int, name: str, place: int) -> torch.Generator:
    """Randomness of one tensor of one expert."""
    return torch.Generator().manual_seed(int(content_hash([seed, name, place])[:15], 16))
