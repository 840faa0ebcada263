"""Batches of examples: a pure function of step and rank, each example once in an epoch, padding that is not seen."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pomona.ground.errors import ConfigError, DataError
from pomona.tasks import ExampleStream, held_out_batches
from pomona.tasks.stream import Encoded

ROWS = [[number + 10] * (1 + number % 40) for number in range(50)]


def encoded(longest: int = 32) -> Encoded:
    rows = [row[:longest] for row in ROWS]
    return Encoded(rows, [number % 3 for number in range(50)], pad_token_id=0, seq_length=longest)


def test_every_example_comes_once_in_an_epoch() -> None:
    """Catches a shuffle with replacement, and an order that repeats."""
    stream = ExampleStream(encoded(), batch_size=10, seed=3)
    visited = [int(row[0]) for step in range(10) for row in stream.batch(step)[0]["input_ids"]]
    first, second = visited[:50], visited[50:]
    assert Counter(first) == Counter(second) == Counter(range(10, 60)) and first != second


def test_parts_make_up_the_batch() -> None:
    """Catches micro-batches or ranks that get other examples than one process would, or lose some."""
    whole = ExampleStream(encoded(), batch_size=11, seed=0).batch(7)[0]
    shared = ExampleStream(encoded(), batch_size=11, seed=0, world_size=2)
    parts = [part for rank in range(2) for part in shared.batch(7, rank, micro_batches=2)]
    assert torch.cat([part["labels"] for part in parts]).equal(whole["labels"])
    assert torch.cat([part["input_ids"][:, 0] for part in parts]).equal(whole["input_ids"][:, 0])


def test_rows_keep_their_labels_and_are_padded_on_the_right() -> None:
    """Catches labels of other rows, masks of another side, and lengths beyond the limit."""
    for batch in held_out_batches(encoded(), batch_size=8):
        ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
        assert ids.shape[1] in (16, 32)
        for row, seen, label in zip(ids, mask, labels, strict=True):
            number = int(row[0]) - 10
            length = min(32, 1 + number % 40)
            assert int(seen.sum()) == length and seen[:length].all()
            assert (row[:length] == number + 10).all() and (row[length:] == 0).all()
            assert int(label) == number % 3


def test_refusals() -> None:
    """Catches a batch that holds an example twice because there are too few, and ranks without any."""
    with pytest.raises(DataError, match="smaller batch_size"):
        ExampleStream(encoded(), batch_size=51)
    with pytest.raises(ConfigError, match="fewer micro-batches"):
        ExampleStream(encoded(), batch_size=2).batch(0, micro_batches=3)
