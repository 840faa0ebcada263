"""Head: what a model does with hidden states after its blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pomona.anatomy.declaration import Pool
from pomona.anatomy.weight import Norm, Weight


@dataclass(frozen=True, eq=False)
class Head:
    """What lies between hidden states and logits: a pool, a transform, a factor, a linear map, a factor and a cap.

    Args:
        weight: the linear map.
        module: gives the logits of what is pooled and transformed.
        pool: see `pooled`; None when only the model's own forward knows.
        own_tokens: positions at the start that the stem adds of its own.
        transform: module before the linear map, or None.
        transform_parts: weights between hidden states and linear map.
        norm: the last of them, where it is a norm, or None.
        direct: the linear map alone follows the transform; else `module` holds the transform too.
        added: a buffer (1, outputs) that is added to the logits, or None.
    """

    weight: Weight
    module: nn.Module
    pool: Pool | None
    own_tokens: int
    transform: nn.Module | None
    transform_parts: list[Weight]
    norm: Norm | None
    direct: bool
    added: Tensor | None
    scale: float
    logits_scale: float
    softcap: float | None

    @property
    def plain(self) -> bool:
        """True when the linear map, token by token, is all there is."""
        factors = (self.scale, self.logits_scale, self.softcap, self.transform, self.pool, self.direct)
        return factors == (1.0, 1.0, None, None, "tokens", True)

    @property
    def bias(self) -> Tensor | None:
        """What is added to the linear map's outputs (outputs,), differentiable, or None."""
        bias: Tensor | None = None if self.weight.bias is None else self.weight.bias.parameter
        if self.added is None:
            return bias
        return self.added.flatten() if bias is None else bias + self.added.flatten()

    def parts(self) -> Iterator[Weight]:
        """Every weight and bias."""
        yield from self.transform_parts
        yield self.weight
        if self.weight.bias is not None:
            yield self.weight.bias

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., outputs) of (..., D) hidden states, or (B, outputs) of (B, T, D) when it pools them first."""
        hidden = pooled(hidden, self.pool or "tokens", self.own_tokens)
        if self.transform is not None:
            hidden = self.transform(hidden)
        if self.scale != 1.0:
            hidden = hidden * self.scale
        output: Tensor = self.module(hidden)
        if self.added is not None:
            output = output + self.added
        if self.logits_scale != 1.0:
            output = output * self.logits_scale
        return output if self.softcap is None else self.softcap * torch.tanh(output / self.softcap)


def pooled(hidden: Tensor, pool: Pool, own_tokens: int) -> Tensor:
    """What a head reads of hidden states (B, T, D); for "tokens" (..., D), all of them."""
    if pool == "tokens":
        return hidden
    own, made = hidden[:, :own_tokens].mean(1), hidden[:, own_tokens:].mean(1)
    first_and_made = torch.cat([hidden[:, 0], made], -1)
    return {"first": hidden[:, 0], "mean": hidden.mean(1), "own": own, "made": made, "first and made": first_and_made}[
        pool
    ]
