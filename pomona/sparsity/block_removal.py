"""Block removal: take out whole blocks.

Source: "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024, arXiv:2403.03853, Sec. 3
(block influence, Eq. 1); "On the Effect of Dropping Layers of Pre-trained Transformer Models", 2020, arXiv:2004.03844
(dropping the last blocks).
Implements: BI_i = 1 - mean over tokens of cos(input, output) of block i; the blocks with the lowest influence go, in
    one step. As other scores the first-order estimate of the change of the loss, the root mean square of the weights,
    the place (last first), and random.
Deviations: none in BI. Left out: measuring again after each removed block, which repeated use gives.
Use when: latency matters: depth is what cannot be computed in parallel. Train on afterwards. Cost: one pass forward
    over the calibration batches for `influence`, and back for `taylor`, else none.
Relations: `g-stack` with a list of blocks as `order` does the inverse; `head-removal` and `ffn-removal` keep the depth.
Limits: models whose blocks depend on their place are refused. An encoder and a decoder lose the same share each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy, Stack
from pomona.anatomy.architecture import restored_on_error
from pomona.ground.errors import ConfigError, PomonaError
from pomona.sparsity.block_scores import BlockScore, block_magnitude_scores, block_taylor_scores, influence_scores
from pomona.sparsity.calibration import Calibration
from pomona.sparsity.config import PruningConfig
from pomona.sparsity.report import Cut, Loader, SparsityReport

if TYPE_CHECKING:
    from pomona.engine import Batch, Objective


class BlockRemovalConfig(PruningConfig):
    """Remove whole blocks."""

    method: Literal["block-removal"] = "block-removal"
    fraction: float = Field(default=0.25, gt=0.0, lt=1.0)
    """Share of the blocks of each stack that goes; at least one stays."""
    score: BlockScore = "influence"
    """Which go: those with the least `influence` on the residual stream, the least estimated change of the loss
    (`taylor`), the least `magnitude`, the `last` ones, or `random` ones."""
    seed: NonNegativeInt = 0
    """Of random scores."""

    @property
    def passes(self) -> float:
        return {"influence": 1.0, "taylor": 2.0}.get(self.score, 0.0)

    def check(self, body: Anatomy) -> None:
        counts = {stack.path: len(stack.blocks) for stack in body.stacks}
        if all(_stay(count, self.fraction) == count for count in counts.values()):
            raise ConfigError(
                f"{self.method} would remove nothing",
                found=f"fraction {self.fraction} of " + " and ".join(f"{n} blocks" for n in counts.values()),
                do="choose a larger fraction, or a model with more blocks",
            )

    def rehearse_(self, model: Any) -> Loader:
        body = anatomy.of(model)
        self.check(body)
        return _restack_(body, [list(range(_stay(len(stack.blocks), self.fraction))) for stack in body.stacks])

    def apply_(self, model: Any, batches: Sequence[Batch] = (), objective: Objective | None = None) -> SparsityReport:
        start = time.perf_counter()
        body = model if isinstance(model, Anatomy) else anatomy.of(model)
        self.check(body)
        data = Calibration(body, batches, objective, self.method) if self.needs_batches else None
        before, cuts = body.parameter_count(), []
        for stack in body.stacks:
            count = len(stack.blocks)
            order = self._scores(stack, data).argsort(descending=True, stable=True)
            kept = tuple(sorted(order[: _stay(count, self.fraction)].tolist()))
            cuts.append(Cut(f"blocks of {stack.path}", count, len(kept), kept))
        with anatomy.touched(body, self.method):
            loader = _restack_(body, [cut.kept or () for cut in cuts])
        return SparsityReport(
            method=self.method,
            config=self.model_dump(mode="json"),
            cuts=tuple(cuts),
            parameters_before=before,
            parameters_after=body.parameter_count(),
            loads_with=loader,
            tokens=data.tokens if data else 0,
            flops=data.flops if data else 0.0,
            seconds=time.perf_counter() - start,
        )

    def _scores(self, stack: Stack, data: Calibration | None) -> Tensor:
        """(blocks,); of equal ones, the first stays."""
        blocks = stack.blocks
        if data is not None:
            scores = influence_scores if self.score == "influence" else block_taylor_scores
            return scores(data, blocks)
        if self.score == "magnitude":
            return block_magnitude_scores(blocks)
        if self.score == "random":
            return torch.rand(len(blocks), generator=torch.Generator().manual_seed(self.seed))
        return -torch.arange(len(blocks))


def remove_blocks_(
    model: Any,
    config: BlockRemovalConfig | None = None,
    batches: Sequence[Batch] = (),
    objective: Objective | None = None,
) -> SparsityReport:
    """Remove blocks of `model` in place; see `PruningConfig.apply_`."""
    return (config or BlockRemovalConfig()).apply_(model, batches, objective)


def _stay(count: int, fraction: float) -> int:
    """How many blocks of a stack stay."""
    return max(1, count - round(fraction * count))


def _restack_(body: Anatomy, kept: Sequence[Sequence[int]]) -> Loader:
    """Keep these blocks of each stack, all or nothing; says what loads the result."""
    try:
        with restored_on_error(body.model):
            for stack, order in zip(body.stacks, kept, strict=True):
                body.restack_(order, stack=stack.name)
    except PomonaError:
        body.refresh()
        raise
    return body.loads_with
