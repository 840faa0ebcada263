"""The lowest of many tensors: exactly as many as asked for, the same as sorting all would give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pomona.sparsity.lowest import keep_all_but_lowest


def by_sorting(tensors: list[Tensor], count: int) -> list[Tensor]:
    flat = torch.cat([tensor.float().flatten() for tensor in tensors])
    mask = torch.ones(len(flat), dtype=torch.bool)
    mask[flat.argsort(stable=True)[:count]] = False
    parts = mask.split([tensor.numel() for tensor in tensors])  # type: ignore[no-untyped-call]
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


numbers = st.sampled_from([0.0, 1e-45, 1e-38, 1e-3, 0.5, 1.0, 1.0 + 2**-23, 1.0 + 2**-22, 7.0, 3e38])


@given(st.lists(st.lists(numbers, min_size=1, max_size=12), min_size=1, max_size=4), st.floats(0, 1))
def test_as_by_sorting(values: list[list[float]], share: float) -> None:
    """Catches a threshold between two bins, ties that go in another order, and counts that are off by one."""
    tensors = [torch.tensor(own) for own in values]
    count = round(share * sum(map(len, values)))
    found = list(keep_all_but_lowest(lambda: tensors, count))
    assert all(torch.equal(one, other) for one, other in zip(found, by_sorting(tensors, count), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_many_numbers_of_any_dtype(dtype: torch.dtype) -> None:
    """Catches overflow of bins and numbers read as others: transposed views, many ties in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(30, 50, generator=generator).abs().to(dtype).T, torch.rand(7, generator=generator).to(dtype)]
    before: list[Tensor] | None = None
    for count in (0, 1, 700, 1506, 1507):
        found = list(keep_all_but_lowest(lambda: tensors, count))
        assert sum(int((~mask).sum()) for mask in found) == count
        assert all(torch.equal(one, other) for one, other in zip(found, by_sorting(tensors, count), strict=True))
        if before is not None:
            assert all(bool((now <= then).all()) for now, then in zip(found, before, strict=True)), "nested"
        before = found
