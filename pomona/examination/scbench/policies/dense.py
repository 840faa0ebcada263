"""Keep everything."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pomona.examination.scbench.policies.policy import BYTES, CachePolicy, Kept


class Dense(CachePolicy):
    """The whole cache, as it is: what others are compared with."""

    policy: Literal["dense"] = "dense"

    def view(self, kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return key, value, None

    def bytes(self, tokens: int, heads: int, width: int) -> int:
        return 2 * BYTES * tokens * heads * width

    def scaled(self, factor: float) -> Dense:
        return self
