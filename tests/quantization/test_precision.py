"""The switch of float32 precision."""

from __future__ import annotations

import pytest
import torch

from pomona.quantization import precision
from pomona.quantization.precision import fast_calibration, products
from tests.quantization.conftest import build_model


def test_everything_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches global switches that stay on after an error."""
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: True)
    model = build_model("llama")
    before = torch.get_float32_matmul_precision(), model.config._attn_implementation
    with pytest.raises(RuntimeError, match="stop"), fast_calibration(model):
        assert torch.is_autocast_enabled("cpu")
        raise RuntimeError("stop")
    assert (torch.get_float32_matmul_precision(), model.config._attn_implementation) == before
    assert not torch.is_autocast_enabled("cpu")


def test_changed_weights_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a cache of bf16 weights that outlives an edit of the weights."""
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: True)
    model, inputs = build_model("llama"), torch.arange(8)[None]
    with fast_calibration(model):  # gradients are on, so that autocast would cache
        before = model(inputs).logits
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight.mul_(2)
        assert not torch.equal(model(inputs).logits, before)


def test_an_inner_block_decides() -> None:
    """Catches a factorization that inherits the coarse products of the calibration around it."""
    before = torch.get_float32_matmul_precision()
    with products("medium"), products("highest"):
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == before
