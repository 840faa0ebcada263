"""Batches as a pure function of (seed, step, rank): windows of one long token sequence, in a new order every epoch.

A token sequence is read as a ring of chunks, each as long as the longest window. An epoch visits every chunk once, in
the order of a permutation that is computed, not stored; every epoch also cuts the ring at another place. A step whose
windows are 1/r of a chunk reads the r parts of its chunks one after another in r steps, so that no token is read
twice in an epoch, whatever lengths a run goes through.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pomona.data.mixture import Mixture
from pomona.data.permutation import Permutation, derive_key
from pomona.data.tokens import Split
from pomona.ground.errors import ConfigError, DataError

Batch = dict[str, torch.Tensor]
Ramp = int | Callable[[int], int]

_FAR = [0, *(2**power for power in range(41))]  # steps at which a ramp is asked for its largest value


class _Stretch(NamedTuple):
    """Steps with one batch size and one length. A block is the `parts` steps that share their chunks."""

    first_step: int
    first_block: int
    first_lane: int
    batch_size: int
    seq_length: int
    parts: int


class _Ring:
    """One split as a ring of `chunks` chunks of `length` tokens."""

    def __init__(self, split: Split, length: int, seed: int, number: int) -> None:
        self.split, self.length, self.chunks = split, length, split.count // length
        self._seed = (seed, number)
        self.order = lru_cache(maxsize=4)(self._order)

    def _order(self, epoch: int) -> tuple[Permutation, int]:
        permutation = Permutation(self.chunks, derive_key(*self._seed, "order", epoch))
        return permutation, derive_key(*self._seed, "offset", epoch) % self.split.count

    def chunk_starts(self, visits: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the chunks lie that are visited as number `visits` since the beginning of training."""
        starts = np.empty_like(visits)
        epochs, indices = np.divmod(visits, self.chunks)
        for epoch in np.unique(epochs):
            permutation, offset = self.order(int(epoch))
            here = epochs == epoch
            starts[here] = (offset + permutation(indices[here]) * self.length) % self.split.count
        return starts


class TokenStream:
    """Training batches from a split or a mixture; it can be asked for any step, in any order, from any process.

    Args:
        source: what is read.
        batch_size: sequences per optimizer step over all ranks, or a function of the step.
        seq_length: tokens per sequence, or a function of the step.
        seed: another seed, another order.
        world_size: processes that share a batch. The union of what they get does not depend on it.
        respect_documents: also give the number of the document that each token belongs to.
        longest: the largest value of `seq_length`. Needed only when that is a function that shrinks again.

    Raises:
        ConfigError: a size is not positive, or there are fewer sequences than ranks.
        DataError: the corpus (or a source of the mixture) has fewer windows than one batch takes from it.
    """

    def __init__(
        self,
        source: Split | Mixture,
        *,
        batch_size: Ramp,
        seq_length: Ramp,
        seed: int = 0,
        world_size: int = 1,
        respect_documents: bool = False,
        longest: int | None = None,
    ) -> None:
        self.mixture = source if isinstance(source, Mixture) else Mixture([(source, 1.0)])
        self.seed, self.world_size, self.respect_documents = seed, world_size, respect_documents
        self._batch_size, self._seq_length = batch_size, seq_length
        self.longest = longest or _largest(seq_length)
        _require_positive(batch_size=self.sequences_at(0), seq_length=self.seq_length_at(0), world_size=world_size)
        self._require_enough(_largest(batch_size))
        self._rings = [_Ring(split, self.longest, seed, number) for number, split in enumerate(self.mixture.splits)]
        self._stretches: list[_Stretch] = []
        self._explored = 0
        self._served = (0, np.zeros(len(self._rings), dtype=np.int64))
        self._lock = Lock()

    def sequences_at(self, step: int) -> int:
        """Sequences of one optimizer step over all ranks."""
        return self._batch_size(step) if callable(self._batch_size) else self._batch_size

    def seq_length_at(self, step: int) -> int:
        """Tokens of one sequence."""
        return self._seq_length(step) if callable(self._seq_length) else self._seq_length

    def tokens_at(self, step: int) -> int:
        """Tokens (targets) of one optimizer step over all ranks."""
        return self.sequences_at(step) * self.seq_length_at(step)

    def epoch_of(self, step: int) -> int:
        """How often the most repeated source had been read completely when `step` began."""
        block, _, _ = self._place(step)
        visits = self._visits_before(block)
        return max(int(count) // ring.chunks for count, ring in zip(visits, self._rings, strict=True))

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        """The micro-batches of `rank` at `step`.

        Each is a dict of `tokens` (B, T+1) int64, a window and the token after it, and with `respect_documents`
        `documents` (B, T+1) int32, the number of each token's document, counted from 0 within its window.
        Concatenated over micro-batches and ranks they are the batch of the step, in one order, always.
        """
        lanes, length = self.sequences_at(step), self.seq_length_at(step)
        shares = self.world_size * micro_batches
        if not 0 <= rank < self.world_size:
            raise ConfigError(f"there is no rank {rank}", needs=f"0 to {self.world_size - 1}")
        if micro_batches < 1 or lanes < shares:
            raise ConfigError(
                f"{lanes} sequences cannot be divided into {micro_batches} micro-batches on {self.world_size} ranks",
                needs=f"a batch of at least {shares} sequences",
                do="raise batch_size, or use fewer micro-batches or ranks",
            )
        edges = [lanes * share // shares for share in range(rank * micro_batches, (rank + 1) * micro_batches + 1)]
        sources, starts = self._lanes(step, np.arange(edges[0], edges[-1]))
        tokens = np.empty((len(starts), length + 1), dtype=np.int64)
        documents = np.empty((len(starts), length + 1), dtype=np.int32) if self.respect_documents else None
        for row, (source, start) in enumerate(zip(sources.tolist(), starts.tolist(), strict=True)):
            split = self.mixture.splits[source]
            tokens[row] = split.tokens.read(start, length + 1)
            if documents is not None:
                documents[row] = split.documents_at(start, length + 1)
        batches = []
        for low, high in pairwise(edges):
            rows = slice(low - edges[0], high - edges[0])
            batches.append({"tokens": torch.from_numpy(tokens[rows])})
            if documents is not None:
                batches[-1]["documents"] = torch.from_numpy(documents[rows])
        return batches

    def _lanes(self, step: int, lanes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which source each sequence of the step reads, and where its window begins there."""
        block, part, stretch = self._place(step)
        before = self._visits_before(block)
        counts = self._counts(np.array([block]), stretch)[0]
        if len(self._rings) > 1:  # which lane reads which source is shuffled, so that every rank sees all of them
            lanes = Permutation(stretch.batch_size, derive_key(self.seed, "lanes", block))(lanes)
        ends = np.cumsum(counts)
        sources = np.searchsorted(ends, lanes, side="right")
        visits = before[sources] + lanes - (ends - counts)[sources]
        starts = np.empty_like(lanes)
        for number, ring in enumerate(self._rings):
            here = sources == number
            starts[here] = (ring.chunk_starts(visits[here]) + part * stretch.seq_length) % ring.split.count
        return sources, starts

    def _place(self, step: int) -> tuple[int, int, _Stretch]:
        """The block of `step`, which part of its chunks the step reads, and its stretch."""
        if step < 0:
            raise ConfigError(f"there is no step {step}", needs="steps from 0 on")
        with self._lock:
            if not self._stretches:
                self._open_stretch(0, self.sequences_at(0), self.seq_length_at(0))
            if callable(self._batch_size) or callable(self._seq_length):
                for new in range(self._explored + 1, step + 1):
                    last, size = self._stretches[-1], (self.sequences_at(new), self.seq_length_at(new))
                    if size != (last.batch_size, last.seq_length):
                        self._open_stretch(new, *size)
                    self._explored = new
            stretch = next(each for each in reversed(self._stretches) if each.first_step <= step)
        block, part = divmod(step - stretch.first_step, stretch.parts)
        return stretch.first_block + block, part, stretch

    def _open_stretch(self, step: int, batch_size: int, seq_length: int) -> None:
        _require_positive(batch_size=batch_size, seq_length=seq_length)
        if seq_length > self.longest:
            raise ConfigError(
                f"seq_length is {seq_length} at step {step}, more than the longest window",
                needs=f"at most {self.longest}",
                do="pass longest=, the largest length that the function ever returns",
            )
        block = lane = 0
        if self._stretches:
            last = self._stretches[-1]
            blocks = -(-(step - last.first_step) // last.parts)  # a block that was begun is not taken up again
            block, lane = last.first_block + blocks, last.first_lane + blocks * last.batch_size
        self._stretches.append(_Stretch(step, block, lane, batch_size, seq_length, self.longest // seq_length))

    def _visits_before(self, block: int) -> NDArray[np.int64]:
        """(sources,): chunks that each source had served when `block` began."""
        stretches = [each for each in self._stretches if each.first_block <= block]
        if len(self._rings) == 1:
            last = stretches[-1]
            return np.array([last.first_lane + (block - last.first_block) * last.batch_size])
        known, visits = self._served
        if known > block:
            known, visits = 0, np.zeros_like(visits)
        ends = [*(each.first_block for each in stretches[1:]), block]
        for stretch, end in zip(stretches, ends, strict=True):
            for begin in range(max(known, stretch.first_block), end, 65536):
                blocks = np.arange(begin, min(end, begin + 65536))
                visits = visits + self._counts(blocks, stretch).sum(axis=0)
        self._served = (block, visits)
        return visits

    def _counts(self, blocks: NDArray[np.int64], stretch: _Stretch) -> NDArray[np.int64]:
        steps = stretch.first_step + (blocks - stretch.first_block) * stretch.parts
        return self.mixture.counts(steps, blocks, stretch.batch_size)

    def _require_enough(self, batch_size: int) -> None:
        for split, share in zip(self.mixture.splits, self.mixture.largest_shares(), strict=True):
            windows, needed = split.count // self.longest, max(1, int(np.ceil(share * batch_size)))
            if windows < needed:
                raise DataError(
                    f"{split.name!r} is smaller than one batch",
                    needs=f"{needed} windows of {self.longest} tokens, {needed * self.longest:,} tokens",
                    found=f"{split.count:,} tokens, {windows} windows",
                    do="use more text, a smaller batch_size or a shorter seq_length",
                )


def _largest(ramp: Ramp) -> int:
    return max(map(ramp, _FAR)) if callable(ramp) else ramp


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name} is {size}", needs="at least 1")


def validation_batches(
    split: Split, *, batch_size: int, seq_length: int, limit_tokens: int | None = None, respect_documents: bool = False
) -> list[Batch]:
    """The first windows of a split, in order, without shuffling: the same for every model and every run.

    Args:
        limit_tokens: at most so many targets, rounded down to whole windows but to at least one.

    Raises:
        DataError: the split is shorter than one window.
    """
    windows = (split.count - 1) // seq_length
    if windows < 1:
        raise DataError(
            f"{split.name!r} is shorter than one window",
            needs=f"{seq_length + 1:,} tokens",
            found=f"{split.count:,} tokens",
            do="set aside a larger fraction for validation, or use a shorter seq_length",
        )
    if limit_tokens is not None:
        windows = min(windows, max(1, limit_tokens // seq_length))
    batches = []
    for first in range(0, windows, batch_size):
        starts = [window * seq_length for window in range(first, min(first + batch_size, windows))]
        tokens = np.stack([split.tokens.read(start, seq_length + 1).astype(np.int64) for start in starts])
        batches.append({"tokens": torch.from_numpy(tokens)})
        if respect_documents:
            documents = np.stack([split.documents_at(start, seq_length + 1) for start in starts])
            batches[-1]["documents"] = torch.from_numpy(documents)
    return batches
