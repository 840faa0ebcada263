"""Packed windows: every token of text once, behind its prefix, and a stream that is a pure function."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from pomona.data.packed import PackedStream, PackedWindows, first_parts
from pomona.data.tokens import Split
from pomona.ground.errors import ConfigError, DataError

LENGTHS = [5, 1, 17, 3, 30, 2, 9, 41]
START = 100


def split() -> Split:
    """Documents whose tokens count upwards through the corpus, so that each is told by its value."""
    edges = np.cumsum([0, *LENGTHS])
    return Split.of([list(range(low, high)) for low, high in pairwise(edges)])


def prefix(document: int) -> np.ndarray:
    """A start token, and as many tokens of the document's number as it is odd."""
    return np.array([START, *[200 + document] * (document % 3)])


def windows(seq_length: int = 11, documents: list[int] | None = None) -> PackedWindows:
    return PackedWindows(split(), list(range(8)) if documents is None else documents, prefix, seq_length)


def test_every_token_of_text_is_there_once_and_in_order() -> None:
    """Catches text lost or read twice where a document is cut, but for the last window that is not full."""
    packed = windows()
    batch = packed.read(np.arange(len(packed)))
    assert batch["tokens"].shape == (len(packed), 12)
    text = batch["tokens"][~batch["given"]]
    assert torch.equal(text, torch.arange(len(text))) and sum(LENGTHS) - 12 < len(text) <= sum(LENGTHS)


def test_every_part_begins_with_its_prefix() -> None:
    """Catches a part that goes on without what is given, and another document's line."""
    packed = windows()
    batch = packed.read(np.arange(len(packed)))
    owner = np.repeat(np.arange(8), LENGTHS)
    for tokens, numbers, given in zip(*(batch[name] for name in ("tokens", "documents", "given")), strict=True):
        for number in numbers.unique():
            part, free = tokens[numbers == number], given[numbers == number]
            if free.all():
                continue  # the end of a window that had no room for more text
            line = part[free]
            wanted = prefix(int(owner[int(part[~free][0])]))
            assert line.tolist() == wanted.tolist() and not free[len(line) :].any()
        assert (numbers.diff() >= 0).all() and numbers[0] == 0


def test_some_documents_only() -> None:
    """Catches text of documents that were not asked for."""
    packed = windows(documents=[2, 4, 7])
    batch = packed.read(np.arange(len(packed)))
    text = batch["tokens"][~batch["given"]]
    wanted = torch.cat([torch.arange(6, 23), torch.arange(26, 56), torch.arange(67, 108)])
    assert torch.equal(text, wanted[: len(text)]) and len(text) > len(wanted) - 12


def test_a_line_that_is_too_long_and_text_that_is_too_short() -> None:
    """Catches an endless loop over a document that never fits, and a stream of nothing."""
    with pytest.raises(ConfigError, match="shorten the template"):
        windows(seq_length=2)
    with pytest.raises(DataError, match="does not fill one sequence"):
        windows(documents=[0, 1])


def test_phases_and_epochs() -> None:
    """Catches a phase that begins at the wrong step, a window twice in an epoch, and equal orders in all epochs."""
    first, second = windows(documents=[4, 7]), windows(documents=[0, 2, 6])
    stream = PackedStream([(0, first), (9, second)], batch_size=2)
    seen = [stream.windows_at(step) for step in range(20)]
    assert all(packed is (first if step < 9 else second) for step, (packed, _) in enumerate(seen))
    visits = np.concatenate([chosen for _, chosen in seen[:9]])
    epochs = [visits[at : at + len(first)].tolist() for at in range(0, 18 - len(first), len(first))]
    assert all(sorted(epoch) == list(range(len(first))) for epoch in epochs) and len(epochs) >= 2
    assert epochs[0] != epochs[1]


def test_a_batch_does_not_depend_on_how_it_is_shared() -> None:
    """Catches sequences that move between steps when the processes or micro-batches are others."""
    whole = PackedStream([(0, windows())], batch_size=4).batch(3)[0]["tokens"]
    shared = PackedStream([(0, windows())], batch_size=4, world_size=2)
    parts = [part["tokens"] for rank in (0, 1) for part in shared.batch(3, rank, micro_batches=2)]
    assert torch.equal(torch.cat(parts), whole)
    with pytest.raises(ConfigError, match="raise batch_size"):
        shared.batch(0, 0, micro_batches=3)


def test_first_parts() -> None:
    """Catches another text behind a longer line."""
    for line in (prefix, lambda document: np.array([START])):
        batch = first_parts(split(), [2, 4, 7], line, 7)
        text = batch["tokens"][~batch["given"]].view(3, 7)
        assert text[:, 0].tolist() == [6, 26, 67] and (text.diff(dim=1) == 1).all()
    with pytest.raises(DataError, match="fewer than 7"):
        first_parts(split(), [0], prefix, 7)
