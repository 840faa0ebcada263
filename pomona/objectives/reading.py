"""Objectives that decide themselves what is read: how documents become sequences, and which are read when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pomona.data import Tokens
    from pomona.engine.fit import Stream


@runtime_checkable
class ReadingMethod(Protocol):
    """The parameters of such an objective, beside what every objective has."""

    def stream(
        self, tokens: Tokens, *, steps: int, batch_size: int, seq_length: int, seed: int, world_size: int = 1
    ) -> Stream:
        """The batches of a run of `steps` steps. Raises `DataError` where the documents lack what it needs."""
        ...
