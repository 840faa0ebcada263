"""Sparse from the start: what `pretrain` does with a method before, during and after training.

started = config.start_(model, seed)            # zeroes weights, or puts others in their place
optimizer = ...                                 # over what is trained now
with started.holding(body, optimizer):          # while it is trained
    ...
facts = started.finish_(tokens)                 # an ordinary model again; what to write down about it
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from pomona.anatomy import Anatomy
from pomona.sparsity.fixed_zeros import fixed_zeros


class Started(Protocol):
    """A model whose training has been made sparse.

    `continues`: whether its state while it is trained is that of an ordinary model.
    """

    continues: ClassVar[bool]

    def holding(self, body: Anatomy, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """What has to hold while the optimizer steps."""

    def finish_(self, tokens: int) -> dict[str, Any]:
        """Leave an ordinary model, and say what the manifest keeps about it: plain values.

        Args:
            tokens: that it was trained on.
        """


@dataclass(frozen=True)
class HeldZeros:
    """Some weights are zero and stay so; all others of the model are trained."""

    continues: ClassVar[bool] = True
    parameters: Sequence[nn.Parameter]

    def holding(self, body: Anatomy, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        return fixed_zeros(body, optimizer, self.parameters)

    def finish_(self, tokens: int) -> dict[str, Any]:
        zeros = sum(int((parameter == 0).sum()) for parameter in self.parameters)
        return {"zeros": zeros, "zero_flops": zero_flops(zeros, tokens)}


def zero_flops(zeros: int, tokens: int) -> float:
    """FLOPs of training that multiply by weights that are zero: 2 forward and 4 backward for each, at every token.

    Dense kernels carry them out, so that no time is saved; kernels that skip zeros would save so many.
    """
    return 6.0 * zeros * tokens
