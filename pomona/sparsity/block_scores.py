"""Scores of blocks: how much a whole block matters. All give (blocks,) float64; the lowest go first."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pomona.anatomy import Block, replace_inputs, replace_outputs, tap_inputs, tap_outputs
from pomona.sparsity.calibration import Calibration

BlockScore = Literal["influence", "taylor", "magnitude", "last", "random"]


def influence_scores(data: Calibration, blocks: Sequence[Block]) -> Tensor:
    """Block influence, 1 - mean over tokens of cos(block input, block output) (arXiv:2403.03853, Eq. 1)."""
    entered: dict[int, Tensor] = {}
    sums, count = torch.zeros(len(blocks), dtype=torch.float64), torch.zeros(len(blocks), dtype=torch.float64)

    def left(place: int, hidden: Tensor) -> None:
        cosine = cosine_similarity(entered.pop(place).double(), hidden.double(), dim=-1)
        sums[place] += float(cosine.sum())
        count[place] += cosine.numel()

    with ExitStack() as taps:
        for place, block in enumerate(blocks):
            taps.enter_context(tap_inputs(block, partial(entered.__setitem__, place)))
            taps.enter_context(tap_outputs(block, partial(left, place)))
        data.loss()
    return 1.0 - sums / count


def block_taylor_scores(data: Calibration, blocks: Sequence[Block]) -> Tensor:
    """First-order estimate of what skipping a block costs: sum over sequences of |sum of (output - input) dL/doutput|.

    As `taylor_scores` of units, for a gate on all that the block adds.
    """
    found = torch.zeros(len(blocks), dtype=torch.float64)
    points = [partial(tapped, block) for tapped in (replace_inputs, replace_outputs) for block in blocks]
    for flows in data.flows(points):
        by_point = {flow.point: flow for flow in flows}
        for place in range(len(blocks)):
            before, after = by_point[place], by_point[len(blocks) + place]
            effects = ((after.values - before.values) * after.gradient).double().flatten(1).sum(1)
            found[place] += float(effects.abs().sum())
    return found


def block_magnitude_scores(blocks: Sequence[Block]) -> Tensor:
    """Root mean square of all linear weights of a block."""
    means = []
    for block in blocks:
        squares = [(weight.read().double().square().sum().cpu(), weight.numel()) for weight in block.wholes()]
        means.append(torch.stack([total for total, _ in squares]).sum() / sum(size for _, size in squares))
    return torch.stack(means).sqrt()
