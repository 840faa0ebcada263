"""Batches of labelled examples as a pure function of (seed, step, rank), padded no longer than they need to be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from pomona.data import Batch
from pomona.data.permutation import Permutation, derive_key
from pomona.ground.errors import ConfigError, DataError
from pomona.tasks.reading import Example

MULTIPLE = 16
"""Lengths are rounded up to this many tokens, so that there are few different ones."""


class Encoded:
    """Examples as tokens.

    Args:
        rows: token ids of each.
        labels: (examples,) the output that stands for each label.
        pad_token_id: what fills shorter rows, on the right.
        seq_length: the longest row.
    """

    def __init__(
        self, rows: Sequence[Sequence[int]], labels: Sequence[int], pad_token_id: int, seq_length: int
    ) -> None:
        self.rows = [np.array(row, dtype=np.int64) for row in rows]
        self.labels = np.array(labels, dtype=np.int64)
        self.pad_token_id, self.seq_length = pad_token_id, seq_length

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """`input_ids` and `attention_mask` (B, T) int64, `labels` (B,) int64."""
        longest = max(1, *(len(self.rows[index]) for index in indices.tolist()))
        length = min(self.seq_length, -(-longest // MULTIPLE) * MULTIPLE)
        ids = np.full((len(indices), length), self.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for place, index in enumerate(indices.tolist()):
            row = self.rows[index]
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        mask[:, 0] = 1  # a text without any token has one position all the same
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(self.labels[indices]),
        }


def encode(
    examples: Sequence[Example], labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, seq_length: int
) -> Encoded:
    """Texts as the tokenizer makes them, with its special tokens, cut at the end.

    Args:
        labels: all labels in order.
        tokenizer: with a padding token (`ready_tokenizer`).
        seq_length: tokens of the longest row.
    """
    if tokenizer.pad_token_id is None:
        raise ConfigError("the tokenizer has no padding token", do="use `tasks.ready_tokenizer`")
    number = {label: index for index, label in enumerate(labels)}
    texts = [example.text for example in examples]
    rows = tokenizer(texts, truncation=True, max_length=seq_length)["input_ids"] if texts else []
    return Encoded(rows, [number[example.label] for example in examples], tokenizer.pad_token_id, seq_length)


class ExampleStream:
    """Training batches; every epoch visits each example once, in a new order.

    Args:
        examples: what is read.
        batch_size: examples per optimizer step over all ranks.
        seed: another seed, another order.
        world_size: processes that share a batch. The union of what they get does not depend on it.

    Raises:
        DataError: there are fewer examples than one batch.
    """

    def __init__(self, examples: Encoded, *, batch_size: int, seed: int = 0, world_size: int = 1) -> None:
        if len(examples) < batch_size:
            raise DataError(
                "there are fewer examples than one batch",
                needs=f"{batch_size}",
                found=f"{len(examples)}",
                do="give more examples, or a smaller batch_size",
            )
        self.examples, self.batch_size, self.seed, self.world_size = examples, batch_size, seed, world_size

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        """The micro-batches of `rank` at `step`; see `Encoded.batch`."""
        shares = self.world_size * micro_batches
        if not 0 <= rank < self.world_size:
            raise ConfigError(f"there is no rank {rank}", needs=f"0 to {self.world_size - 1}")
        if micro_batches < 1 or self.batch_size < shares:
            raise ConfigError(
                f"{self.batch_size} examples cannot be divided into {micro_batches} micro-batches on "
                f"{self.world_size} ranks",
                do="raise batch_size, or use fewer micro-batches or ranks",
            )
        edges = [
            self.batch_size * share // shares for share in range(rank * micro_batches, (rank + 1) * micro_batches + 1)
        ]
        first = step * self.batch_size
        return [self.examples.batch(self._visited(first + low, first + high)) for low, high in pairwise(edges)]

    def _visited(self, low: int, high: int) -> NDArray[np.int64]:
        """Which examples are visited as numbers `low` to `high` - 1 since the beginning of training."""
        count = len(self.examples)
        visits = np.arange(low, high)
        indices = np.empty_like(visits)
        for epoch in np.unique(visits // count):
            here = visits // count == epoch
            order = Permutation(count, derive_key(self.seed, "examples", int(epoch)))
            indices[here] = order(visits[here] % count)
        return indices


def held_out_batches(examples: Encoded, *, batch_size: int = 64) -> list[Batch]:
    """All examples in batches, in order of their lengths, so that little is padded: the same for every model."""
    order = np.argsort([len(row) for row in examples.rows], kind="stable")
    return [examples.batch(order[first : first + batch_size]) for first in range(0, len(order), batch_size)]
