"""Choosing the next token from logits."""

from __future__ import annotations

import hashlib
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from pomona.ground.config import Config


class SamplingConfig(Config):
    """How the next token is chosen."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Tokens to write at most."""
    temperature: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    """0 takes the most probable token every time; 1 samples from the model's own distribution; more is wilder."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Sample from the k most probable tokens only."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Sample from the most probable tokens that together have this probability."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The same seed gives the same text. Each prompt has random numbers of its own, whatever the others are."""

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1

    @property
    def keep(self) -> int:
        """How many of the largest logits decide: 1 for greedy, k for top-k, 0 for all."""
        return 1 if self.greedy else self.top_k or 0


def generator_of(config: SamplingConfig, index: int) -> torch.Generator:
    """The random stream of prompt number `index`."""
    # torch's generator on the CPU looks at 32 bits of a seed: they have to depend on all of both numbers.
    digest = hashlib.sha256(f"{config.seed} {index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4]))


def choose(logits_V: Tensor, config: SamplingConfig, generator: torch.Generator) -> int:
    """The next token.

    Args:
        logits_V: float32; -inf for tokens that cannot be chosen.
        config: temperature 0 takes the largest logit. Otherwise top_k is applied first, then top_p on what is left.
        generator: advanced by one draw unless greedy.
    """
    if config.greedy:
        return int(logits_V.argmax())
    count = logits_V.shape[0]
    if config.top_k is not None and config.top_k < count:
        values, tokens = torch.topk(logits_V, config.top_k)
    elif config.top_p is not None:
        values, tokens = torch.sort(logits_V, descending=True)
    else:
        values, tokens = logits_V, torch.arange(count)
    # In float64, so that the sum of many small probabilities does not depend on their order.
    probabilities = torch.softmax(values.double() / config.temperature, dim=0)
    if config.top_p is not None:
        before = probabilities.cumsum(0) - probabilities
        probabilities = torch.where(before < config.top_p, probabilities, 0.0)
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return int(tokens[drawn])
