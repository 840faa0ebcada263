"""What every policy says: what of the cache a query sees, and what it would take to keep that."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Self

from torch import Tensor

from pomona.ground.config import Config

BYTES = 2
"""Of a number in a cache that is not compressed (bf16)."""


@dataclass
class Kept:
    """What a policy remembers of one block: the length of the first pass, and what it chose then."""

    tokens: int = 0
    chosen: Tensor | None = None
    counted: dict[str, float] = field(default_factory=dict)


class CachePolicy(Config):
    """One way to live with a long cache. Tensors are of one sequence: (N, T, H) queries, (K, S, H) keys and values."""

    policy: str

    def first(self, kept: Kept, query: Tensor, key: Tensor, scaling: float) -> None:
        """Look at the first pass, whose queries see all keys before them, and choose what stays."""
        kept.tokens = key.shape[1]

    @abstractmethod
    def view(self, kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values as later queries find them, and a bool (N or 1, T or 1, S) of those that they see."""

    @abstractmethod
    def bytes(self, tokens: int, heads: int, width: int) -> int:
        """Of a cache of so many tokens, with so many key-value heads of `width` numbers."""

    @abstractmethod
    def scaled(self, factor: float) -> Self:
        """With budgets times a factor."""
