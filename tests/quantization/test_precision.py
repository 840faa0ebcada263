"""The switch of float32 precision."""

from __future__ import annotations

import pytest
import torch

from pomona.quantization.precision import fast_products, products


def test_precision_is_restored() -> None:
    """Catches a global switch that stays on after an error."""
    before = torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError, match="stop"), fast_products(torch.device("cpu")):
        raise RuntimeError("stop")
    assert torch.get_float32_matmul_precision() == before


def test_an_inner_block_decides() -> None:
    """Catches a factorization that inherits the coarse products of the calibration around it."""
    before = torch.get_float32_matmul_precision()
    with products("medium"), products("highest"):
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == before
