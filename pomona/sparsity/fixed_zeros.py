"""Fixed zeros: a model that was pruned by single weights stays so while it is trained on.

Source: arXiv:2306.03805, Sec. 3: masks stay fixed in later training, gradients and weights being masked at each step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pomona.anatomy import Anatomy


@contextmanager
def fixed_zeros(
    body: Anatomy, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter] | None = None
) -> Iterator[None]:
    """Within the block, weights that are zero now stay zero at every step of the optimizer.

    Args:
        body: of the model. Its linear maps, token table and head count; norms and biases do not.
        parameters: those that count in their place.
        optimizer: gets hooks before and after each step, which are removed at the end of the block.
    """
    gone = [(parameter, parameter == 0) for parameter in (_matrices(body) if parameters is None else parameters)]
    gone = [(parameter, zero) for parameter, zero in gone if bool(zero.any())]

    @torch.no_grad()
    def before(*given: Any) -> None:
        for parameter, zero in gone:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(zero, 0.0)

    @torch.no_grad()
    def after(*given: Any) -> None:
        for parameter, zero in gone:
            parameter.masked_fill_(zero, 0.0)

    hooks = optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def count_zeros(body: Anatomy) -> int:
    """How many weights of the linear maps, the token table and the head are zero."""
    return sum(int((parameter == 0).sum()) for parameter in _matrices(body))


def _matrices(body: Anatomy) -> list[nn.Parameter]:
    """The parameters of linear maps, embedding and head, each once."""
    outside = [weight.parameter for weight in (body.embedding, body.head) if weight is not None]
    every = [*(parameter for _, parameter in body.matrices()), *outside]
    return list({id(parameter): parameter for parameter in every}.values())
