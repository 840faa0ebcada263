"""The weighted mean."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pomona.merging import merge
from pomona.merging.linear import linear
from tests.merging.models import tensors

shares = st.lists(st.floats(0.01, 10), min_size=1, max_size=5)


def test_by_hand() -> None:
    """Catches shares that are not divided by their sum, or that go to the wrong expert."""
    experts = [torch.tensor([1.0, 0.0]), torch.tensor([5.0, 8.0])]
    assert linear(experts, [1, 3]).tolist() == [4.0, 6.0]


@settings(deadline=None)
@given(tensors(1), shares)
def test_identical_experts_return_themselves(rows: list[Tensor], weights: list[float]) -> None:
    """Catches any rounding that shows: whatever the shares, equal experts give themselves bit for bit."""
    assert torch.equal(linear([rows[0]] * len(weights), weights).float(), rows[0])


@settings(deadline=None)
@given(tensors(3), st.tuples(*[st.floats(0.1, 2)] * 3))
def test_lies_between_the_experts(rows: list[Tensor], weights: tuple[float, ...]) -> None:
    """Catches shares that do not add up to one."""
    merged = linear(rows, weights)
    stacked = torch.stack(rows).double()
    assert bool((merged >= stacked.amin(0) - 1e-9).all()) and bool((merged <= stacked.amax(0) + 1e-9).all())


def test_the_base_does_not_count() -> None:
    """Catches a base that is averaged in; named among the experts, it is."""
    base, expert = {"w": torch.tensor([0.0])}, {"w": torch.tensor([2.0])}
    assert merge(base, [expert])["w"] == 2.0
    assert merge(base, [expert, base])["w"] == 1.0
