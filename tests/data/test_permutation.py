"""The shuffle behind every epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.data.permutation import Permutation, derive_key


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_every_index_occurs_exactly_once(size: int, key: int) -> None:
    """Catches a network that is not a bijection or a walk that leaves the range."""
    image = Permutation(size, key)(np.arange(size))
    assert np.array_equal(np.sort(image), np.arange(size))


def test_any_index_alone_gives_what_all_together_give() -> None:
    """Catches a walk in which one index influences another."""
    permutation = Permutation(1000, 7)
    together = permutation(np.arange(1000))
    assert [int(permutation(np.array([index]))[0]) for index in range(0, 1000, 37)] == together[::37].tolist()


def test_keys_give_unrelated_orders() -> None:
    """Catches a key that is ignored, and an order that keeps neighbours together."""
    first, second = (Permutation(10_000, derive_key(seed))(np.arange(10_000)) for seed in (0, 1))
    assert (first == second).mean() < 0.001
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(np.arange(10_000), first)[0, 1]) < 0.05


def test_arguments_are_left_alone_and_empty_ranges_refused() -> None:
    """Catches an index array that is changed in place."""
    index = np.arange(10)
    Permutation(10, 3)(index)
    assert index.tolist() == list(range(10))
    with pytest.raises(ValueError, match="at least one"):
        Permutation(0, 1)
