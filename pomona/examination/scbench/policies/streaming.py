"""StreamingLLM (arXiv:2309.17453): keep the first keys and the latest ones."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from pomona.examination.scbench.policies.policy import BYTES, CachePolicy, Kept


class Streaming(CachePolicy):
    """The first keys and a window that moves on. Keys keep the positions that they were made at."""

    policy: Literal["streaming"] = "streaming"
    initial: NonNegativeInt = 128
    """First keys that stay."""
    local: PositiveInt = 3968
    """Latest keys that stay."""

    def view(self, kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        queries, keys = query.shape[1], key.shape[1]
        places = torch.arange(keys, device=key.device)
        distance = places[keys - queries :, None] - places
        return key, value, ((places < self.initial) | (distance < self.local))[None]

    def bytes(self, tokens: int, heads: int, width: int) -> int:
        return 2 * BYTES * min(tokens, self.initial + self.local) * heads * width

    def scaled(self, factor: float) -> Streaming:
        return Streaming(initial=round(self.initial * factor), local=max(1, round(self.local * factor)))
