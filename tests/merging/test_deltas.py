"""The arithmetic that methods share: exact where nothing changes, exact counts, the majority by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pomona.merging.deltas import change, dot, largest, moved, moved_by_majority, moved_by_mean, wide
from tests.merging.models import tensors


@settings(deadline=None)
@given(tensors(2), st.integers(1, 9))
def test_the_mean_of_equal_changes_is_that_change(pair: list[Tensor], count: int) -> None:
    """Catches shares that are multiplied in one by one (n times 1/n is not 1): equal experts give themselves, bit for
    bit, for any number of them and in any of the three ways of combining."""
    base, expert = pair
    changes = [change(expert, base)] * count
    for merged in (
        moved_by_mean(base, changes, [1.0] * count),
        moved_by_majority(base, changes, [1.0] * count),
        moved(base, changes[:1], [1.0]),
    ):
        assert torch.equal(merged.float(), expert)


@settings(deadline=None)
@given(tensors(3), st.floats(-2, 2))
def test_no_change_stays_no_change(rows: list[Tensor], scale: float) -> None:
    """Catches base weights that are rounded although no expert changed them."""
    base = rows[0]
    nothing = [change(base, base)] * 3
    for combine in (moved, moved_by_mean, moved_by_majority):
        assert torch.equal(combine(base, nothing, [0.5, 1.0, 0.2], scale).float(), base)


def test_the_dtype_of_the_arithmetic() -> None:
    """Catches sums in bfloat16, and float32 weights whose changes are rounded."""
    for stored in (torch.bfloat16, torch.float16):
        assert wide(torch.ones(1, dtype=stored)).dtype == torch.float32
    for stored in (torch.float32, torch.float64):
        assert wide(torch.ones(1, dtype=stored)).dtype == torch.float64


def test_the_majority_by_hand() -> None:
    """Catches a mean over all experts, over those with the other sign, or over zeros; and an election by heads instead
    of by size."""
    zero = torch.zeros(6)
    one = torch.tensor([3.0, 3.0, -1.0, 0.0, 2.0, 0.0])
    two = torch.tensor([1.0, -1.0, -1.0, 4.0, -2.0, 0.0])
    three = torch.tensor([0.0, -1.0, 5.0, 0.0, 0.0, 0.0])
    merged = moved_by_majority(zero, [one, two, three], [1, 1, 1])
    #           mean of 3, 1 | +3 wins | 5 wins | 4 alone | sum 0: base | nothing
    assert merged.tolist() == [2.0, 3.0, 5.0, 4.0, 0.0, 0.0]
    weighted = moved_by_majority(zero, [one, two], [1, 4], scale=2.0)
    assert weighted.tolist() == [2 * 7 / 5, 2 * -1.0, 2 * -1.0, 2 * 4.0, 2 * -2.0, 0.0]


@settings(deadline=None)
@given(tensors(1), st.data())
def test_exactly_so_many_of_the_largest(rows: list[Tensor], data: st.DataObject) -> None:
    """Catches a count that is off where entries are equal: exactly `count`, none smaller than one left out, the first
    of equal ones, and those for a smaller count among them."""
    magnitude = rows[0].abs().round(decimals=0)
    count = data.draw(st.integers(0, magnitude.numel()))
    mask = largest(magnitude, count)
    assert int(mask.sum()) == count
    order = sorted(range(magnitude.numel()), key=lambda place: (-float(magnitude[place]), place))
    assert sorted(order[:count]) == mask.nonzero().flatten().tolist()
    assert not bool((largest(magnitude, count - 1) & ~mask).any())


def test_masks_keep_the_shape() -> None:
    """Catches masks that are flat."""
    assert largest(torch.rand(2, 3, 4), 5).shape == (2, 3, 4)


def test_inner_products_do_not_lose_small_numbers() -> None:
    """Catches sums in float32: many small squares beside a large one."""
    values = torch.full((2**20,), 2.0**-13)
    values[0] = 2.0**12
    assert dot(values, values) == pytest.approx(2**24 + (2**20 - 1) * 2**-26, rel=1e-12)
