"""The arc between two tensors: its ends, its norm, and the line where there is no arc."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pomona.merging.arc import NEARLY_PARALLEL, slerp
from tests.merging.models import tensors


def test_by_hand() -> None:
    """Catches sines in the wrong place: a third of a right angle is thirty degrees."""
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    third = slerp(a, b, 1 / 3)
    assert third.tolist() == pytest.approx([2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)], abs=1e-12)


@settings(deadline=None)
@given(tensors(2))
def test_ends(pair: list[Tensor]) -> None:
    """t = 0 is the base and t = 1 the expert, bit for bit, on the arc and on the line."""
    base, expert = pair
    assert torch.equal(slerp(base, expert, 0.0).float(), base)
    assert torch.equal(slerp(base, expert, 1.0).float(), expert)


@settings(deadline=None)
@given(tensors(2, size=6), st.floats(0, 1))
def test_equal_norms_stay(pair: list[Tensor], t: float) -> None:
    """Tensors of one norm keep it all along the arc. Catches the chord, on which it shrinks."""
    a, b = (row.double() for row in pair)
    if not float(a.norm()) or not float(b.norm()):
        return
    b = b * (a.norm() / b.norm())
    cosine = float(torch.dot(a, b) / a.norm() ** 2)
    if abs(cosine) <= NEARLY_PARALLEL:
        assert float(slerp(a, b, t).norm()) == pytest.approx(float(a.norm()), rel=1e-9)


@settings(deadline=None)
@given(tensors(1), st.floats(0, 1), st.floats(-3, 3))
def test_parallel_tensors_go_along_the_line(rows: list[Tensor], t: float, factor: float) -> None:
    """Parallel, opposite and zero tensors have no arc (a division by zero): the line is taken."""
    a, b = rows[0].double(), rows[0].double() * factor
    torch.testing.assert_close(slerp(a, b, t), a + t * (b - a), rtol=1e-12, atol=1e-12)


def test_the_threshold() -> None:
    """Catches a threshold on the wrong side: just above it the line, just below it the arc."""
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for cosine, arc in ((0.9996, False), (0.9994, True), (-0.9996, False), (-0.9994, True)):
        b = torch.tensor([cosine, math.sqrt(1 - cosine**2)], dtype=torch.float64)
        middle = slerp(a, b, 0.5)
        assert (float((middle - (a + b) / 2).norm()) > 1e-9) is arc


def test_norms_of_different_length_go_from_one_to_the_other() -> None:
    """Catches directions that are interpolated after normalizing: the norms of the parents count."""
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 4.0])
    assert slerp(a, b, 0.5).tolist() == pytest.approx([math.sqrt(0.5), 4 * math.sqrt(0.5)])
