"""SnapKV (arXiv:2404.14469): after the first pass keep the keys that its last queries looked at."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from pomona.examination.scbench.policies.policy import BYTES, CachePolicy, Kept


class SnapKV(CachePolicy):
    """The keys with most attention from the last queries, and these themselves; chosen once for each key-value head,
    whose query heads vote together. What comes later stays."""

    policy: Literal["snapkv"] = "snapkv"
    window: PositiveInt = 32
    """Last queries that vote, and whose keys stay."""
    capacity: PositiveInt = 4096
    """Keys that stay after the first pass. Shorter prompts are left alone."""
    kernel: PositiveInt = 5
    """Neighbouring keys over which votes are averaged; odd."""

    def first(self, kept: Kept, query: Tensor, key: Tensor, scaling: float) -> None:
        super().first(kept, query, key, scaling)
        heads, tokens, width = key.shape
        window = min(self.window, self.capacity, tokens)
        kept.chosen = None
        if tokens <= self.capacity:
            return
        own = query[:, -window:].reshape(heads, -1, window, width)
        scores = (own @ key[:, None].transpose(2, 3)).float() * scaling
        later = torch.ones(window, window, dtype=torch.bool, device=key.device).triu(1)
        scores[..., tokens - window :].masked_fill_(later, -torch.inf)
        votes = scores.softmax(-1)[..., : tokens - window].sum((1, 2))
        votes = torch.nn.functional.avg_pool1d(votes[:, None], self.kernel, 1, self.kernel // 2)[:, 0]
        kept.chosen = torch.zeros(heads, tokens, dtype=torch.bool, device=key.device)
        kept.chosen.scatter_(1, votes.topk(self.capacity - window, 1).indices, True)
        kept.chosen[:, tokens - window :] = True

    def view(self, kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if kept.chosen is None:
            return key, value, None
        later = kept.chosen.new_ones(len(key), key.shape[1] - kept.tokens)
        seen = torch.cat([kept.chosen, later], 1).repeat_interleave(len(query) // len(key), 0)
        return key, value, seen[:, None]

    def bytes(self, tokens: int, heads: int, width: int) -> int:
        return 2 * BYTES * min(tokens, self.capacity) * heads * width

    def scaled(self, factor: float) -> SnapKV:
        capacity = max(self.window, round(self.capacity * factor))
        return SnapKV(window=self.window, capacity=capacity, kernel=self.kernel)
