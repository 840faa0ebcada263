"""Scores of units: how much a head or a feature matters, by its weights or by the loss that it would cost.

All give space -> (units,) float64; the units with the lowest scores go first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pomona.anatomy import Anatomy, Space, replace_inputs
from pomona.sparsity.calibration import Calibration
from pomona.sparsity.units import readers

Score = Literal["taylor", "magnitude", "random"]
Scores = dict[Space, Tensor]


def magnitude_scores(body: Anatomy, spaces: Sequence[Space]) -> Scores:
    """Root mean square of all weights of a unit: those that write it and those that read it, biases included."""
    found = {}
    for space in spaces:
        total, count = torch.zeros(space.size, dtype=torch.float64), torch.zeros(space.size, dtype=torch.float64)
        for weight, dim in body.members(space):
            squares = weight.read().double().square().movedim(dim, 0).reshape(weight.shape[dim], -1).cpu()
            owners = weight.axes[dim].owners(space)
            total.index_add_(0, owners, squares.sum(1))
            count.index_add_(0, owners, torch.full_like(owners, squares.shape[1], dtype=torch.float64))
        found[space] = (total / count).sqrt()
    return found


def random_scores(spaces: Sequence[Space], seed: int) -> Scores:
    """Uniform random numbers: the baseline of every other score."""
    generator = torch.Generator().manual_seed(seed)
    return {space: torch.rand(space.size, generator=generator, dtype=torch.float64) for space in spaces}


def taylor_scores(data: Calibration, spaces: Sequence[Space]) -> Scores:
    """First-order estimate of what removing a unit costs: sum over sequences of |sum over tokens of x * dL/dx|.

    x are the unit's inputs to its reader and L the summed loss of the sequence, so the inner sum is dL/dg of a gate
    g = 1 on the unit (arXiv:1905.10650, Eq. 2). How sequences are divided into batches makes no difference. In experts,
    where tokens of several sequences meet, each token counts as a sequence.
    """
    every = [(space, reader) for space in spaces for reader in readers(data.body, space)]
    found = {space: torch.zeros(space.size, dtype=torch.float64) for space in spaces}
    sequences = [len(next(iter(batch.values()))) for batch in data.batches]
    points = [partial(replace_inputs, reader.weight) for _, reader in every]
    for size, flows in zip(sequences, data.flows(points), strict=True):
        for flow in flows:
            space, reader = every[flow.point]
            effects = (flow.values * flow.gradient).double().reshape(-1, len(reader.units)).cpu()
            if not reader.weight.routed:
                effects = effects.view(size, -1, len(reader.units)).sum(1)
            gates = torch.zeros(len(effects), space.size, dtype=torch.float64)
            found[space] += gates.index_add_(1, reader.units, effects).abs().sum(0)
    return found
