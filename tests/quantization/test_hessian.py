"""The running Hessian and the error it weighs."""

from __future__ import annotations

import pytest
import torch

from pomona.quantization import hessian
from pomona.quantization.hessian import RunningHessian, weighted_error


def rows(count: int, inputs: int = 12, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("split", [[30], [1, 29], [10, 10, 10], [7, 0, 23]])
def test_any_split_gives_the_hessian_of_the_concatenation(split: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches batches that are weighted by their number instead of their size, and panels that are left out."""
    inputs = rows(30)
    for panel in (5, 512):
        monkeypatch.setattr(hessian, "_PANEL", panel)
        running = RunningHessian(12)
        for part in inputs.split(split):
            running.add(part)
        torch.testing.assert_close(running.value(), 2 / 30 * inputs.T @ inputs, rtol=1e-12, atol=1e-12)
        assert running.tokens == 30
    assert torch.equal(running.value(), running.value().T)


def test_half_precision_inputs_are_summed_in_float32() -> None:
    """Catches Hessians in half precision: squares of 300 overflow float16."""
    running = RunningHessian(12)
    inputs = (300 * rows(40)).half()
    running.add(inputs)
    assert running.value().dtype == torch.float32
    expected = 2 / 40 * inputs.double().T @ inputs.double()
    torch.testing.assert_close(running.value().double(), expected, rtol=1e-5, atol=1)


def test_no_input_is_an_error() -> None:
    """Catches a silent zero Hessian for a weight that never ran."""
    with pytest.raises(ValueError, match="no calibration input"):
        RunningHessian(4).value()


@pytest.mark.parametrize("panel", [5, 512])
def test_weighted_error_is_the_mean_squared_output_deviation(panel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a wrong factor or a missing panel: it must equal the error of the outputs themselves."""
    monkeypatch.setattr(hessian, "_PANEL", panel)
    inputs, deviation = rows(30), rows(6)
    running = RunningHessian(12)
    running.add(inputs)
    expected = (inputs @ deviation.T).square().sum(1).mean().item()
    assert weighted_error(deviation, running.value()) == pytest.approx(expected, rel=1e-12)
