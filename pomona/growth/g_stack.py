"""G_stack: grow a trained model by stacking copies of its blocks.

Source: "Stacking Your Transformers: A Closer Look at Model Growth for Efficient LLM Pre-Training", NeurIPS 2024,
arXiv:2405.15319, Sec. 3 (operators), Sec. 4 (factor and timing; Eq. for log10(d)).
Implements: block i of the grown model is a copy of block i mod L of the source (`cyclic`), block i * L // L_new
    (`interleaved`), or any list; embeddings, final norm and head stay as they are. As an option the `zero` operator in
    depth: new blocks whose attention and feed-forward outputs are zero, so that the function stays exactly the same.
    Timing: log10(d) = 0.88 log10(N) + 163.27 / log10(C) - 5.74 tokens of the base model, for N parameters of the grown
    one and C planned FLOPs.
Deviations: none in these. Left out: growth in width, and the operators split, random and learn, which the paper found
    worse; the optimizer's state, which the paper drops: build a new optimizer with a new warm-up after growing.
Use when: a deep model is to be trained: train a shallow one for a small part of the tokens, grow it once by about 4,
    and go on with data that it has not seen. Cost: the copies; the loss jumps and recovers within some hundred steps.
Relations: with `new_blocks: identity` nothing jumps, but the new blocks start from nothing.
Limits: models of one stack without a shared position bias. Below 1e8 parameters the timing is extrapolated: clamp it
    (`suggest_timing` does and says so). Do not anneal the base model first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError
from pomona.growth.report import GrowthReport

FITTED_FROM = 1e8
"""Parameters below which the timing law was not fitted."""
SMALL_SCALE_SHARE = (0.05, 0.10)
"""Share of the token budget that the base model gets, at least and at most, below `FITTED_FROM`."""


class GStackConfig(MethodConfig):
    """Stack copies of the model's blocks on top of one another."""

    method: Literal["g-stack"] = "g-stack"
    factor: PositiveInt | None = None
    """How many times as many blocks. None, with no other size given: 4, the paper's recommendation."""
    blocks: PositiveInt | None = None
    """Number of blocks afterwards, instead of a factor; at least as many as now."""
    order: Literal["cyclic", "interleaved"] | tuple[NonNegativeInt, ...] = "cyclic"
    """Which block is copied where: 0 1 2 0 1 2 (`cyclic`, the paper's), 0 0 1 1 2 2 (`interleaved`), or a list."""
    new_blocks: Literal["copies", "identity"] = "copies"
    """`copies` of the source, or copies with zero outputs, under which the function stays the same."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        sizes = [self.factor is not None, self.blocks is not None, not isinstance(self.order, str)]
        if sum(sizes) > 1:
            raise ValueError("give one of factor, blocks and a list of blocks as order, not several")
        if self.order == ():
            raise ValueError("an order names at least one block")
        return self

    def order_for(self, count: int) -> list[int]:
        """The source block of each new block, for a model of `count` blocks.

        Raises:
            ConfigError: fewer blocks than now, or a list that names blocks which do not exist.
        """
        if not isinstance(self.order, str):
            order = list(self.order)
            wrong = [index for index in order if index >= count]
            if wrong:
                raise ConfigError(
                    f"{self.method}: order names blocks that do not exist",
                    needs=f"indices from 0 to {count - 1}",
                    found=", ".join(map(str, wrong)),
                )
            return order
        wanted = self.blocks if self.blocks is not None else count * (self.factor or 4)
        return stacking_order(count, wanted, self.order)

    def apply_(self, model: Any) -> GrowthReport:
        """Grow `model` in place; see `g_stack_`."""
        return g_stack_(model, self)


@dataclass(frozen=True)
class GrowthTiming:
    """How long to train the base model.

    Args:
        tokens: of the base model.
        share: of the whole token budget.
        remark: what a user should know about the number.
    """

    tokens: int
    share: float
    remark: str


def stacking_order(count: int, wanted: int, pattern: Literal["cyclic", "interleaved"]) -> list[int]:
    """The source block of each of `wanted` blocks, from `count` source blocks.

    Example:
        >>> stacking_order(3, 6, "cyclic"), stacking_order(3, 6, "interleaved")
        ([0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 2, 2])
    """
    if wanted < count:
        raise ConfigError(
            "g-stack only grows",
            needs=f"at least the present {count} blocks",
            found=f"{wanted}",
            do="choose a larger number, or list the blocks to keep as order",
        )
    if pattern == "interleaved":
        return [index * count // wanted for index in range(wanted)]
    return [index % count for index in range(wanted)]


def growth_timing(parameters: float, flops: float) -> float:
    """Tokens after which a base model is grown best, by the paper's law.

    Args:
        parameters: N, of the grown model, without embeddings.
        flops: C, planned for the whole run, 6 N D.
    Returns:
        d, in tokens. The law was fitted at 1e8 parameters and more.
    Example:
        >>> f"{growth_timing(7e9, 6 * 7e9 * 2e12):.3g}"
        '1.11e+10'
    """
    return float(10 ** (0.88 * math.log10(parameters) + 163.27 / math.log10(flops) - 5.74))


def suggest_timing(parameters: float, tokens: float) -> GrowthTiming:
    """How many tokens of a budget the base model should get.

    Args:
        parameters: of the grown model, without embeddings.
        tokens: planned for the whole run.
    """
    law = growth_timing(parameters, 6.0 * parameters * tokens)
    if parameters >= FITTED_FROM:
        share = law / tokens
        remark = "by the paper's law"
        if share >= 0.5:
            remark += "; more than half of the budget, which is outside of what it was fitted on"
        return GrowthTiming(round(law), share, remark)
    least, most = SMALL_SCALE_SHARE
    share = min(max(law / tokens, least), most)
    remark = (
        f"the paper's law was fitted from 1e8 parameters on and gives {law / tokens:.3g} of the budget for "
        f"{parameters:.2g}; clamped to {least:.0%}-{most:.0%} of the budget"
    )
    return GrowthTiming(round(share * tokens), share, remark)


def g_stack_(model: Any, config: GStackConfig | None = None) -> GrowthReport:
    """Grow a model in place. The copies share nothing; configuration and indices of the blocks follow.

    The optimizer of the small model does not fit the grown one: build a new one.

    Args:
        model: a transformers model, or its anatomy, which is then brought up to date.
        config: sizes and pattern; the paper's by default.
    Raises:
        ConfigError: the order does not fit, or is the present one.
        UnsupportedModel: the blocks cannot be restacked, or are not pre-norm where new blocks shall be identities.
            Nothing was changed then.
    """
    start = time.perf_counter()
    config = config or GStackConfig()
    body = model if isinstance(model, Anatomy) else anatomy.of(model)
    body.require("single_stack", method=config.method)
    if config.new_blocks == "identity":
        body.require("pre_norm", method=f"{config.method} with identity blocks")
    before, parameters = len(body.blocks), body.parameter_count()
    order = config.order_for(before)
    with anatomy.touched(body, config.method):
        body.restack_(order)
        if config.new_blocks == "identity":
            _silence_repeats_(body, order)
    return GrowthReport(
        order=tuple(order),
        blocks_before=before,
        blocks_after=len(body.blocks),
        parameters_before=parameters,
        parameters_after=body.parameter_count(),
        seconds=time.perf_counter() - start,
        keeps_function=config.new_blocks == "identity" and order[:before] == list(range(before)),
    )


@torch.no_grad()
def _silence_repeats_(body: Anatomy, order: Sequence[int]) -> None:
    """Zero what the second and later copies of each block add to the residual stream."""
    for place, source in enumerate(order):
        if source not in order[:place]:
            continue
        block = body.blocks[place]
        for weight in block.writers():
            weight.write_(torch.zeros_like(weight.read()))
            if weight.bias is not None:
                weight.bias.write_(torch.zeros_like(weight.bias.read()))
