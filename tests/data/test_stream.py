"""Batches as a pure function of (seed, step, rank)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona.data import Mixture, Split, TokenStream, validation_batches
from pomona.ground.errors import ConfigError, DataError


def counting(count: int, document: int = 7, name: str = "tokens") -> Split:
    """A split whose token at position i is i, in documents of `document` tokens."""
    return Split.of([range(first, min(first + document, count)) for first in range(0, count, document)], name=name)


def targets(stream: TokenStream, steps: range, rank: int = 0) -> list[int]:
    """Every target of some steps."""
    return [int(x) for step in steps for batch in stream.batch(step, rank) for x in batch["tokens"][:, 1:].flatten()]


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 9),
    chunks=st.integers(4, 30),
    rest=st.integers(0, 8),
    lanes=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_one_epoch_reads_every_window_exactly_once(length: int, chunks: int, rest: int, lanes: int, seed: int) -> None:
    """Catches gaps, overlaps and repetitions within an epoch, also where batches straddle two epochs."""
    count = chunks * length + min(rest, length - 1)
    stream = TokenStream(counting(count), batch_size=lanes, seq_length=length, seed=seed)
    steps = -(-3 * chunks // lanes)
    rows = torch.cat([stream.batch(step)[0]["tokens"] for step in range(steps)])
    assert ((rows[:, 1:] - rows[:, :-1]) % count == 1).all()
    for epoch in range(3):
        read = rows[epoch * chunks : (epoch + 1) * chunks, :-1].flatten().tolist()
        assert len(set(read)) == len(read) == chunks * length
    assert stream.epoch_of(0) == 0
    assert [stream.epoch_of(step) for step in range(steps)] == [step * lanes // chunks for step in range(steps)]


def test_epochs_are_shuffled_differently_and_cut_at_other_places() -> None:
    """Catches an order or an offset that does not depend on the epoch or on the seed."""
    one, other = (TokenStream(counting(6400), batch_size=100, seq_length=64, seed=seed) for seed in (0, 1))
    first, second, different = one.batch(0)[0]["tokens"], one.batch(1)[0]["tokens"], other.batch(0)[0]["tokens"]
    for rows in (second, different):
        jumps = [torch.diff(each[:, 0]) % 6400 for each in (first, rows)]
        assert (jumps[0] == jumps[1]).float().mean() < 0.1  # another order, not only another beginning
        assert int(first[0, 0]) % 64 != int(rows[0, 0]) % 64
    order = first[:, 0].tolist()
    assert sum(b - a == 64 for a, b in pairwise(order)) < 10


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.integers(0, 40), min_size=1, max_size=6), seed=st.integers(0, 9), ramp=st.booleans())
def test_a_batch_depends_on_nothing_that_was_asked_before(steps: list[int], seed: int, ramp: bool) -> None:
    """Catches iterator state: a fresh stream asked for one step gives what a used one gives."""

    def make() -> TokenStream:
        mixture = Mixture([(counting(900), 2.0), (counting(500), ((3, 0.0), (20, 1.0)))])
        length = (lambda step: 4 if step < 11 else 8) if ramp else 8
        return TokenStream(mixture, batch_size=5, seq_length=length, seed=seed, respect_documents=True)

    used = make()
    for step in steps:
        for left, right in zip(used.batch(step), make().batch(step), strict=True):
            assert torch.equal(left["tokens"], right["tokens"])
            assert torch.equal(left["documents"], right["documents"])


@settings(max_examples=40, deadline=None)
@given(world=st.integers(1, 5), micro=st.integers(1, 3), lanes=st.integers(15, 23), step=st.integers(0, 50))
def test_ranks_and_micro_batches_share_one_batch(world: int, micro: int, lanes: int, step: int) -> None:
    """Catches a union that depends on how it is divided, and shares that differ by more than one sequence."""
    split = counting(2000)
    whole = TokenStream(split, batch_size=lanes, seq_length=16).batch(step)[0]["tokens"]
    stream = TokenStream(split, batch_size=lanes, seq_length=16, world_size=world)
    parts = [part["tokens"] for rank in range(world) for part in stream.batch(step, rank, micro_batches=micro)]
    assert torch.equal(torch.cat(parts), whole)
    sizes = [len(part) for part in parts]
    assert len(sizes) == world * micro and max(sizes) - min(sizes) <= 1


@settings(max_examples=40, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from([4, 8, 16]), st.integers(1, 3)), min_size=1, max_size=4
    ),
    seed=st.integers(0, 9),
)
def test_ramps_of_length_and_batch_never_read_a_token_twice_in_an_epoch(
    changes: list[tuple[int, int, int]], seed: int
) -> None:
    """Catches tilings of different lengths that overlap, and a ramp that starts its chunks again."""
    plan = [(length, lanes) for steps, length, lanes in changes for _ in range(steps)]
    stream = TokenStream(
        counting(16 * 120),
        batch_size=lambda step: plan[min(step, len(plan) - 1)][1],
        seq_length=lambda step: plan[min(step, len(plan) - 1)][0],
        longest=16,
        seed=seed,
    )
    assert stream.epoch_of(len(plan)) == 0
    read = targets(stream, range(len(plan)))
    assert len(read) == len(set(read)) == sum(map(stream.tokens_at, range(len(plan))))


def test_a_short_length_alone_still_reads_everything_once() -> None:
    """Catches parts of chunks that are skipped while the length stays below the longest."""
    stream = TokenStream(counting(16 * 12), batch_size=3, seq_length=lambda step: 4 if step < 1000 else 16)
    assert stream.longest == 16
    assert sorted(targets(stream, range(16))) == list(range(16 * 12))
    assert stream.epoch_of(15) == 0 and stream.epoch_of(16) == 1


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=20, max_size=30), step=st.integers(0, 30))
def test_documents_are_numbered_within_their_window(sizes: list[int], step: int) -> None:
    """Catches boundaries that are off by one, or lost where the ring closes."""
    documents = [[number] * size for number, size in enumerate(sizes)]
    stream = TokenStream(Split.of(documents), batch_size=2, seq_length=8, respect_documents=True)
    batch = stream.batch(step)[0]
    for tokens, numbers in zip(batch["tokens"].tolist(), batch["documents"].tolist(), strict=True):
        expected = np.cumsum([0, *(a != b for a, b in pairwise(tokens))])
        assert numbers == expected.tolist()


def test_shapes_and_types_are_what_the_engine_expects() -> None:
    """Catches a missing look-ahead token or another integer type."""
    batch = TokenStream(counting(100), batch_size=2, seq_length=8, respect_documents=True).batch(0)[0]
    assert batch["tokens"].shape == (2, 9) and batch["tokens"].dtype == torch.int64
    assert batch["documents"].shape == (2, 9) and batch["documents"].dtype == torch.int32
    assert set(TokenStream(counting(100), batch_size=2, seq_length=8).batch(0)[0]) == {"tokens"}


def test_a_mixture_reads_each_source_once_per_epoch_of_its_own() -> None:
    """Catches a source whose chunks are counted by the batch's lanes instead of by its own."""
    first, second = counting(64 * 8), Split.of([range(1000, 1000 + 16 * 8)])
    stream = TokenStream(Mixture([(first, 3.0), (second, 1.0)]), batch_size=8, seq_length=8)
    read = targets(stream, range(8))
    low, high = [x for x in read if x < 1000], [x for x in read if x >= 1000]
    assert len(low) == len(set(low)) == 48 * 8
    assert sorted(high) == list(range(1000, 1000 + 16 * 8))


def test_every_rank_sees_every_source_of_a_mixture() -> None:
    """Catches lanes that are not shuffled, so that rank 0 always reads the first source."""
    parts = [(counting(800), 1.0), (Split.of([range(5000, 5800)]), 1.0)]
    stream = TokenStream(Mixture(parts), batch_size=8, seq_length=8, world_size=2)
    for rank in (0, 1):
        read = targets(stream, range(6), rank)
        assert 0.2 < np.mean(np.array(read) >= 5000) < 0.8


def test_a_late_step_costs_no_more_memory_than_an_early_one() -> None:
    """Catches orders or counts that are stored step by step."""
    stream = TokenStream(Mixture([(counting(800), 1.0), (counting(400), 1.0)]), batch_size=8, seq_length=8)
    late = stream.batch(300_000)[0]["tokens"]
    assert torch.equal(late, stream.batch(300_000)[0]["tokens"])
    assert stream.epoch_of(300_000) == 300_000 * 4 // 50


def test_too_little_text_is_refused() -> None:
    """Catches a batch that would hold the same window twice."""
    with pytest.raises(
        DataError, match=r"smaller than one batch(.|\n)*5 windows of 8 tokens(.|\n)*39 tokens, 4 windows"
    ):
        TokenStream(counting(39), batch_size=5, seq_length=8)
    TokenStream(counting(40), batch_size=5, seq_length=8)
    with pytest.raises(DataError, match="'small' is smaller"):
        TokenStream(Mixture([(counting(400), 1.0), (counting(15, name="small"), 1.0)]), batch_size=4, seq_length=8)


def test_impossible_divisions_and_sizes_are_refused() -> None:
    """Catches empty micro-batches, unknown ranks, negative steps and sizes of zero."""
    stream = TokenStream(counting(100), batch_size=4, seq_length=8, world_size=2)
    with pytest.raises(ConfigError, match="cannot be divided into 3 micro-batches on 2 ranks"):
        stream.batch(0, micro_batches=3)
    with pytest.raises(ConfigError, match="no rank 2"):
        stream.batch(0, 2)
    with pytest.raises(ConfigError, match="no step -1"):
        stream.batch(-1)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        TokenStream(counting(100), batch_size=0, seq_length=8)
    shrinking = TokenStream(counting(100), batch_size=1, seq_length=lambda step: 16 if step == 3 else 8)
    with pytest.raises(ConfigError, match=r"seq_length is 16 at step 3(.|\n)*longest="):
        shrinking.batch(5)


def test_validation_is_the_beginning_in_order() -> None:
    """Catches shuffling, a lost remainder batch and a limit that is not kept."""
    batches = validation_batches(counting(100), batch_size=2, seq_length=8, limit_tokens=45, respect_documents=True)
    assert [batch["tokens"][:, 0].tolist() for batch in batches] == [[0, 8], [16, 24], [32]]
    assert batches[0]["documents"][0].tolist() == [0] * 7 + [1] * 2
    assert sum(len(batch["tokens"]) for batch in validation_batches(counting(100), batch_size=5, seq_length=8)) == 12
    with pytest.raises(DataError, match="shorter than one window"):
        validation_batches(counting(8), batch_size=2, seq_length=8)
