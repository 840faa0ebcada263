"""Calibration: the passes over data from which scores are taken, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pomona.anatomy import Anatomy
from pomona.ground.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pomona.engine import Batch, Objective

Change = Callable[[Tensor], Tensor]
Point = Callable[[Change], AbstractContextManager[None]]
"""A place at which something can be seen and replaced, as `partial(replace_inputs, weight)`."""


@dataclass(frozen=True)
class Flow:
    """What flowed through a point in one batch.

    Args:
        point: its index.
        values: (..., features).
        gradient: of the loss, summed over the batch, by the values.
    """

    point: int
    values: Tensor
    gradient: Tensor


class Calibration:
    """A model in evaluation mode, the batches that it is run on, and the objective that runs it.

    Args:
        batches: prepared for the objective (`Objective.prepare`), at least one.
        method: how errors name who asks.
    Raises:
        DataError: no batches. ConfigError: no objective.
    """

    def __init__(self, body: Anatomy, batches: Sequence[Batch], objective: Objective | None, method: str) -> None:
        if not batches:
            raise DataError(f"{method} looks at data, and there is none", do="give calibration batches")
        if objective is None:
            raise ConfigError(
                f"{method} does not know how to run the model on its data",
                needs="an objective, which gives a loss",
                do="give the one that the model was trained for, as objectives.NextToken()",
            )
        self.body, self.batches, self.objective = body, batches, objective
        self.flops = 0.0

    @property
    def tokens(self) -> int:
        """Tokens that enter the model in one pass over the batches."""
        return sum(batch["input_ids"].numel() for batch in self.batches if "input_ids" in batch)

    @torch.no_grad()
    def loss(self) -> float:
        """The loss in nats per target, from one pass over all batches; what is tapped sees them."""
        total, targets = 0.0, 0
        with self._running():
            for batch in self.batches:
                loss = self.objective(self.body, batch)
                total += float(loss.total)
                targets += int(loss.targets)
        return total / max(targets, 1)

    def flows(self, points: Sequence[Point]) -> Iterator[list[Flow]]:
        """For each batch, what flowed through every point that it reached, with its gradient. Weights get none."""
        for batch in self.batches:
            seen: list[tuple[int, Tensor]] = []
            with self._running(), torch.enable_grad():
                with ExitStack() as taps:
                    for index, point in enumerate(points):
                        taps.enter_context(point(partial(_noted, seen, index)))
                    loss = self.objective(self.body, batch)
                gradients = torch.autograd.grad(loss.total, [values for _, values in seen], allow_unused=True)
            yield [
                Flow(index, values.detach(), gradient)
                for (index, values), gradient in zip(seen, gradients, strict=True)
                if gradient is not None
            ]

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Within the block, the model is in evaluation mode and its matrix products are counted."""
        training = self.body.model.training
        self.body.model.eval()
        counter = FlopCounterMode(display=False)
        try:
            with counter:
                yield
        finally:
            self.body.model.train(training)
            self.flops += counter.get_total_flops()


def _noted(seen: list[tuple[int, Tensor]], index: int, values: Tensor) -> Tensor:
    if not values.requires_grad:
        values = values.detach().requires_grad_()
    seen.append((index, values))
    return values
