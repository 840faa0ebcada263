"""SPDF: pre-train with most weights fixed at zero, at random places; let all of them learn afterwards.

Source: Thangarasa et al., "SPDF: Sparse Pre-training and Dense Fine-tuning for Large Language Models", UAI 2023,
arXiv:2303.10464.
Implements: Sec. 2: of each linear map in the blocks exactly round((1 - S) R C) entries stay, at uniformly random
    places, the same share in every layer; embeddings, norms, biases and head are dense. The mask is static: gradients
    and weights are masked at every step, so that neither momentum nor decay revives what is gone. Training dense from
    there on starts with exact zeros and a new optimizer.
Deviations: none. `rescale`, which keeps the variance of what a map puts out, is not in the paper and off.
Use when: pre-training is what costs. In a recipe: `pretrain: {sparsity: {method: spdf, sparsity: 0.75}}`, and later
    `continue: {zeros: freed}`. Cost: no FLOP of a dense kernel is saved; the manifest says how many multiply by zero
    (`zero_flops`), which hardware that skips zeros would save.
Relations: `magnitude` with `score: random, allocation: uniform` draws such masks, too. `n-m-sparsity` at the start
    gives masks that hardware knows. `sltrain` leaves the map full rank.
Limits: at one share of zeros, small models and hard tasks lose more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy, Weight
from pomona.sparsity.report import SparsityReport
from pomona.sparsity.weight_pruning import ZeroingConfig, zero_

if TYPE_CHECKING:
    from pomona.engine import Batch, Objective


class SpdfConfig(ZeroingConfig):
    """Zero a share of each map at random places."""

    method: Literal["spdf"] = "spdf"
    sparsity: float = Field(default=0.75, ge=0.0, lt=1.0)
    """Share of every matrix that is zero. Default: the paper's larger one, beside 0.5."""
    rescale: bool = False
    """Multiply what stays by 1 / sqrt(1 - sparsity)."""

    def apply_(self, model: Any, batches: Sequence[Batch] = (), objective: Objective | None = None) -> SparsityReport:
        start = time.perf_counter()
        body = model if isinstance(model, Anatomy) else anatomy.of(model)
        weights = self.checked(body)
        if self.sparsity == 0.0:
            cuts = zero_(weights, random_masks(weights, 0.0, self.seed))
        else:
            with anatomy.touched(body, self.method):
                cuts = zero_(weights, random_masks(weights, self.sparsity, self.seed))
                if self.rescale:
                    for weight in weights:
                        weight.write_(weight.read() / math.sqrt(1.0 - self.sparsity))
        return self.report(body, cuts, time.perf_counter() - start)


def random_masks(weights: Sequence[Weight], sparsity: float, seed: int) -> Iterator[Tensor]:
    """One bool mask for each weight, canonical shape: True at exactly round((1 - sparsity) R C) random places."""
    for place, weight in enumerate(weights):
        yield random_mask(weight.shape, sparsity, seed=_mixed(seed, place)).to(weight.parameter.device)


def random_mask(shape: Sequence[int], sparsity: float, *, seed: int) -> Tensor:
    """True at exactly round((1 - sparsity) * size) of the places, uniformly random without replacement.

    Example:
        >>> int(random_mask((4, 6), 0.75, seed=0).sum())
        6
    """
    size = math.prod(shape)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(size, dtype=torch.bool)
    mask[order[: round((1.0 - sparsity) * size)]] = True
    return mask.view(*shape)


def spdf_(model: Any, config: SpdfConfig | None = None) -> SparsityReport:
    """Zero random entries of `model` in place; see `PruningConfig.apply_`. `fixed_zeros` holds them in training."""
    return (config or SpdfConfig()).apply_(model)


def _mixed(seed: int, place: int) -> int:
    return (seed * 1_000_003 + place) % (1 << 63)
