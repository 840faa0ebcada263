"""Selection: the highest stay, as many as asked for, group by group."""

from __future__ import annotations

import pytest
import torch

from pomona.anatomy import Space
from pomona.ground.errors import ConfigError
from pomona.sparsity.selection import keep_highest

ONE, TWO = Space("feed_forward", 4, "one"), Space("feed_forward", 4, "two")
PARENT = Space("kv_head", 2, "attention")
GROUPED = Space("head", 6, "attention", PARENT)


def scores(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_by_block() -> None:
    """Catches the lowest staying, indices out of order, and ties that fall differently from run to run."""
    kept = keep_highest({ONE: scores(3, 1, 4, 2), TWO: scores(1, 1, 1, 1)}, 0.5, "block")
    assert kept == {ONE: [0, 2], TWO: [0, 1]}


def test_over_the_whole_model() -> None:
    """Catches spaces whose scores are of another size deciding for all, and a space that is emptied."""
    kept = keep_highest({ONE: scores(30, 10, 40, 1), TWO: scores(3, 1, 4, 0.1)}, 0.5, "global")
    assert kept == {ONE: [0, 2], TWO: [0, 2]}
    kept = keep_highest({ONE: scores(1, 1, 1, 1), TWO: scores(9, 0, 0, 0)}, 0.75, "global")
    assert kept == {ONE: [0], TWO: [0]}, "the norm makes 9 into 1 and each 1 into 1/2"
    kept = keep_highest({ONE: scores(0, 0, 0, 0), TWO: scores(1, 1, 1, 1)}, 0.5, "global")
    assert kept == {ONE: [0], TWO: [0, 1, 2, 3]}


def test_groups_lose_as_many() -> None:
    """Catches query heads of one key-value head that go because those of another have higher scores."""
    kept = keep_highest({GROUPED: scores(1, 2, 3, 10, 30, 20)}, 0.3, "block")
    assert kept == {GROUPED: [1, 2, 4, 5]}
    with pytest.raises(ConfigError, match="choose scope: block"):
        keep_highest({GROUPED: scores(1, 2, 3, 10, 30, 20)}, 0.3, "global")


def test_multiples() -> None:
    """Catches rounding down, and more units than there are."""
    assert len(keep_highest({ONE: scores(3, 1, 4, 2)}, 0.7, "block", 2)[ONE]) == 2
    assert len(keep_highest({ONE: scores(3, 1, 4, 2)}, 0.7, "block", 8)[ONE]) == 4
    assert len(keep_highest({ONE: scores(3, 1, 4, 2), TWO: scores(0, 0, 0, 1)}, 0.5, "global", 2)[TWO]) == 2
