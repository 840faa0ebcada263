"""The k-th largest over tensors that are read one by one equals that of all of them sorted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona.merging.selection import magnitude_of_rank

sizes = st.one_of(
    st.just(0.0),
    st.floats(0, 2**-120, width=32),
    st.floats(0, 2**127, width=32),
    st.sampled_from([1.0, 1.0 + 2**-23, 2.0]),
)


@settings(deadline=None)
@given(st.lists(st.lists(sizes, max_size=6), min_size=1, max_size=4).filter(any), st.data())
def test_equals_sorting(rows: list[list[float]], data: st.DataObject) -> None:
    """Catches a bin that is off by one, ranks counted from the wrong end, and numbers that share their upper bits."""
    flat = sorted((value for row in rows for value in row), reverse=True)
    rank = data.draw(st.integers(1, len(flat)))
    parts = [torch.tensor(row, dtype=torch.float32) for row in rows]
    assert magnitude_of_rank(lambda: iter(parts), rank) == flat[rank - 1]


def test_reads_twice_and_keeps_nothing() -> None:
    """Catches a selection that holds all parts at once: each is gone when the next is asked for."""
    import weakref

    alive: list[weakref.ref[torch.Tensor]] = []
    passes = []

    def parts() -> object:
        passes.append(1)
        for number in range(4):
            assert not any(each() is not None for each in alive[:-1])
            part = torch.full((3,), float(number))
            alive.append(weakref.ref(part))
            yield part
            del part

    assert magnitude_of_rank(parts, rank=4) == 2.0  # type: ignore[arg-type]
    assert len(passes) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    """Catches bits of another dtype that are read as float32."""
    values = torch.tensor([[0.5, 3.0], [1.5, 0.25]], dtype=dtype)
    assert magnitude_of_rank(lambda: [values], rank=2) == 1.5
