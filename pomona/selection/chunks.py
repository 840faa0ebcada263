"""A token sequence as chunks of one length, which are scored and kept as wholes."""

from __future__ import annotations

from dataclasses import dataclass

from pomona.data.subset import Span


@dataclass(frozen=True)
class Chunks:
    """Consecutive chunks that together are the whole sequence.

    Args:
        tokens: of the sequence.
        length: tokens of a chunk that are predicted; it holds one more, which is only read. The last chunk is what is
            left: shorter, or one token longer where a single token would be, which predicts nothing.
    """

    tokens: int
    length: int

    @property
    def size(self) -> int:
        """Tokens of a chunk."""
        return self.length + 1

    def __len__(self) -> int:
        whole, rest = divmod(self.tokens, self.size)
        return whole + (rest > 1 or (rest == 1 and whole == 0))

    def span(self, number: int) -> Span:
        """Where a chunk lies."""
        start = number * self.size
        return start, (self.tokens - start if number == len(self) - 1 else self.size)
