"""Sequences made of whole beginnings: every document, and every part of one that was cut, starts with what is given.

What is given (a start token, a line about the source) is read but never predicted. A document that does not fit into a
sequence goes on in the next one, with what is given in front of it again; so every token of text stands in exactly one
sequence of an epoch, behind its own prefix. The layout depends on lengths alone and is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pomona.data.permutation import Permutation, derive_key
from pomona.data.stream import Batch
from pomona.data.tokens import Split
from pomona.ground.errors import ConfigError, DataError

Prefix = Callable[[int], NDArray[np.int64]]
"""The tokens given in front of a document, by its number in the split."""


class Segment(NamedTuple):
    """Part of a document in a window: `size` tokens of text from `start` on, behind the document's prefix."""

    document: int
    start: int
    size: int


class PackedWindows:
    """The windows of some documents of a split.

    Args:
        split: where the text is.
        documents: which of its documents, in the order in which they are packed.
        prefix: what is given in front of each; at least one token, of which nothing predicts the first.
        seq_length: tokens per sequence; a window has one more, the label of the last.

    Raises:
        ConfigError: a prefix leaves no room for text.
        DataError: there is not one whole window.
    """

    def __init__(self, split: Split, documents: Sequence[int], prefix: Prefix, seq_length: int) -> None:
        self.split, self.prefix, self.length = split, prefix, seq_length + 1
        self._ends = np.append(split.document_starts[1:], split.count)
        self._segments: list[Segment] = []
        self._firsts: list[int] = []
        self._lay_out(documents)
        if not len(self):
            raise DataError(
                f"{split.name!r} does not fill one sequence",
                needs=f"{self.length} tokens, with what is given in front of each document",
                found=f"{sum(segment.size for segment in self._segments):,} tokens of {len(documents)} documents",
                do="use more text, or a shorter seq_length",
            )

    def _lay_out(self, documents: Sequence[int]) -> None:
        """Fill window after window; the last one, which is not full, is left out."""
        room = 0
        for document in documents:
            given = len(self.prefix(document))
            if given >= self.length:
                raise ConfigError(
                    "what is given in front of a document leaves no room for its text",
                    needs=f"fewer than {self.length} tokens",
                    found=f"{given} tokens before document {document}",
                    do="shorten the template, or lengthen seq_length",
                )
            start, left = 0, int(self._ends[document] - self.split.document_starts[document])
            while left:
                if room <= given:  # what is left of a window that cannot hold any text of the next document
                    self._firsts.append(len(self._segments))
                    room = self.length
                count = min(left, room - given)
                self._segments.append(Segment(document, start, count))
                room -= given + count
                start, left = start + count, left - count
        if room and self._firsts:
            del self._segments[self._firsts.pop() :]

    def __len__(self) -> int:
        return len(self._firsts)

    def segments(self, window: int) -> Sequence[Segment]:
        """The parts of documents in a window."""
        end = self._firsts[window + 1] if window + 1 < len(self) else len(self._segments)
        return self._segments[self._firsts[window] : end]

    def read(self, windows: NDArray[np.int64]) -> Batch:
        """The windows as a batch: `tokens` and `documents` (B, T+1) as a stream gives them, and `given` (B, T+1) bool,
        True for tokens that are not predicted."""
        tokens = np.zeros((len(windows), self.length), dtype=np.int64)
        documents = np.zeros(tokens.shape, dtype=np.int32)
        given = np.ones(tokens.shape, dtype=np.bool_)
        for row, window in enumerate(windows.tolist()):
            at = 0
            for number, segment in enumerate(self.segments(window)):
                prefix = self.prefix(segment.document)
                begin = at + len(prefix)
                end = min(begin + segment.size, self.length)
                where = int(self.split.document_starts[segment.document]) + segment.start
                tokens[row, at:begin] = prefix
                tokens[row, begin:end] = self.split.tokens.read(where, end - begin)
                documents[row, at:end] = number
                given[row, begin:end] = False
                at = end
            tokens[row, at:], documents[row, at:] = tokens[row, 0], documents[row, max(at - 1, 0)] + 1
        return _batch(tokens, documents, given)


def first_parts(split: Split, documents: Sequence[int], prefix: Prefix, count: int) -> Batch:
    """The first `count` tokens of each document, one in a row, behind what is given: the same text, however long the
    prefixes are. Rows are filled up behind the text with tokens that are given too.

    Raises:
        DataError: a document is shorter.
    """
    prefixes = [prefix(document) for document in documents]
    length = max(map(len, prefixes)) + count
    tokens = np.zeros((len(prefixes), length), dtype=np.int64)
    numbers, given = np.zeros(tokens.shape, dtype=np.int32), np.ones(tokens.shape, dtype=np.bool_)
    ends = np.append(split.document_starts[1:], split.count)
    for row, (document, begin) in enumerate(zip(documents, prefixes, strict=True)):
        start, end = int(split.document_starts[document]), len(begin) + count
        if ends[document] - start < count:
            raise DataError(f"document {document} has fewer than {count} tokens", found=f"{ends[document] - start}")
        tokens[row, : len(begin)], tokens[row, len(begin) : end] = begin, split.tokens.read(start, count)
        tokens[row, end:], numbers[row, end:], given[row, len(begin) : end] = begin[0], 1, False
    return _batch(tokens, numbers, given)


def _batch(tokens: NDArray[np.int64], documents: NDArray[np.int32], given: NDArray[np.bool_]) -> Batch:
    return {
        "tokens": torch.from_numpy(tokens),
        "documents": torch.from_numpy(documents),
        "given": torch.from_numpy(given),
    }


class PackedStream:
    """Batches of windows, one set of windows after another: a pure function of (seed, step, rank).

    Args:
        phases: (step from which on, windows), ascending from 0. Each phase visits its windows once per epoch, in an
            order of its own.
        batch_size: sequences per optimizer step over all ranks.
        seed, world_size: as `TokenStream`'s.
    """

    def __init__(
        self, phases: Sequence[tuple[int, PackedWindows]], *, batch_size: int, seed: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < world_size:
            raise ConfigError(f"{batch_size} sequences cannot be shared by {world_size} processes")
        self.phases, self.batch_size, self.seed, self.world_size = list(phases), batch_size, seed, world_size
        self._order = lru_cache(maxsize=4)(self._permutation)

    def _permutation(self, phase: int, epoch: int) -> Permutation:
        return Permutation(len(self.phases[phase][1]), derive_key(self.seed, "packed", phase, epoch))

    def windows_at(self, step: int, rank: int = 0) -> tuple[PackedWindows, NDArray[np.int64]]:
        """The windows that a process reads at a step."""
        phase = sum(start <= step for start, _ in self.phases) - 1
        start, windows = self.phases[phase]
        low, high = (self.batch_size * each // self.world_size for each in (rank, rank + 1))
        visits = (step - start) * self.batch_size + np.arange(low, high)
        epochs, indices = np.divmod(visits, len(windows))
        chosen = np.empty_like(indices)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = self._order(phase, int(epoch))(indices[here])
        return windows, chosen

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        """The step's sequences for one process, in `micro_batches` parts as equal as possible."""
        windows, chosen = self.windows_at(step, rank)
        if not 1 <= micro_batches <= len(chosen):
            raise ConfigError(
                f"{len(chosen)} sequences cannot be divided into {micro_batches} micro-batches",
                do="raise batch_size, or use fewer micro-batches or ranks",
            )
        whole = windows.read(chosen)
        edges = [len(chosen) * part // micro_batches for part in range(micro_batches + 1)]
        return [{name: tensor[low:high] for name, tensor in whole.items()} for low, high in pairwise(edges)]
