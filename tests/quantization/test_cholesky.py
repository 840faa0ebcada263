"""The backward Cholesky factor."""

from __future__ import annotations

import pytest
import torch

from pomona.quantization.cholesky import upper_factor_


@pytest.mark.parametrize("size", [1, 5, 16, 37])
@pytest.mark.parametrize("tile", [4, 16, 64])
def test_product_gives_the_matrix_back(size: int, tile: int) -> None:
    """Catches wrong tiles: R R^T = H with R upper triangular, and R is the inverse of the paper's factor U."""
    samples = torch.randn(3 * size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    matrix = samples.T @ samples
    factor = matrix.clone()
    assert upper_factor_(factor, tile)
    factor = factor.triu()
    torch.testing.assert_close(factor @ factor.T, matrix, rtol=1e-12, atol=1e-12)
    paper = torch.linalg.cholesky(torch.linalg.inv(matrix), upper=True)
    torch.testing.assert_close(factor @ paper, torch.eye(size, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_only_the_upper_triangle_is_read() -> None:
    """Catches a dependence on entries that an earlier panel has overwritten."""
    samples = torch.randn(30, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = samples.T @ samples
    spoiled = matrix.triu() + torch.full((12, 12), 1e9, dtype=torch.float64).tril(-1)
    assert upper_factor_(spoiled, 4)
    assert upper_factor_(matrix, 4)
    assert torch.equal(spoiled.triu(), matrix.triu())


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_failure_is_reported(bad: float) -> None:
    """Catches a factor full of NaN that is taken for a success."""
    for place in (0, 7):
        matrix = torch.eye(8)
        matrix[place, place] = bad
        assert not upper_factor_(matrix, 4)
