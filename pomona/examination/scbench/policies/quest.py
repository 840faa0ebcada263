"""Quest (arXiv:2406.10774): keep everything, and let each query look at the pages that may matter to it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from pomona.examination.scbench.policies.policy import BYTES, CachePolicy, Kept


class Quest(CachePolicy):
    """The pages of keys whose bound of the score is highest, for each query and head, and the query's own page."""

    policy: Literal["quest"] = "quest"
    page: PositiveInt = 16
    """Keys of a page, of which the least and the largest number of each channel are kept besides."""
    budget: PositiveInt = 1024
    """Keys that a query looks at."""

    def view(self, kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        queries, keys = query.shape[1], key.shape[1]
        if keys <= self.budget:
            return key, value, None
        bounds = self.bounds(query, key)
        last = (torch.arange(queries, device=key.device) + keys - queries) // self.page
        pages = torch.arange(bounds.shape[2], device=key.device)
        bounds = bounds.masked_fill(pages > last[:, None], -torch.inf)
        bounds = bounds.masked_fill(pages == last[:, None], torch.inf)
        chosen = bounds.topk(max(1, self.budget // self.page), -1).indices
        seen = torch.zeros_like(bounds, dtype=torch.bool).scatter_(2, chosen, True)
        return key, value, seen.repeat_interleave(self.page, 2)[..., :keys]

    def bounds(self, query: Tensor, key: Tensor) -> Tensor:
        """(N, T, pages): no product of a query with a key of the page is larger."""
        heads, keys, width = key.shape
        short = -keys % self.page
        padded = torch.cat([key, key[:, -1:].expand(-1, short, -1)], 1).view(heads, -1, self.page, width)
        groups = len(query) // heads
        low, high = (each.repeat_interleave(groups, 0).transpose(1, 2) for each in (padded.amin(2), padded.amax(2)))
        return query.clamp(min=0) @ high + query.clamp(max=0) @ low

    def bytes(self, tokens: int, heads: int, width: int) -> int:
        return 2 * BYTES * (tokens + -(-tokens // self.page)) * heads * width

    def scaled(self, factor: float) -> Quest:
        return Quest(page=self.page, budget=max(self.page, round(self.budget * factor)))
