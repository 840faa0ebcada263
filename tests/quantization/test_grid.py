"""The grid: fitting, rounding, and back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pomona.ground.errors import ConfigError
from pomona.quantization.codes import QuantizedWeight, on_grid
from pomona.quantization.grid import Grid, dequantize, fit_grid, quantize


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rounded(weight: Tensor, grid: Grid) -> QuantizedWeight:
    return on_grid(weight, *fit_grid(weight, grid), grid)


def test_by_hand() -> None:
    """Catches a wrong scale or zero point: range [-1, 2] over 3 steps, so s = 1 and z = 1."""
    weight = torch.tensor([[-1.0, 0.4, 2.0, 0.6]])
    scale, zero = fit_grid(weight, Grid(2))
    assert (scale.item(), zero.item()) == (1.0, 1.0)
    assert quantize(weight, scale, zero, 2).tolist() == [[0, 1, 3, 2]]
    assert rounded(weight, Grid(2)).dequantize().tolist() == [[-1, 0, 2, 1]]


def test_symmetric_by_hand() -> None:
    """Catches a symmetric grid that does not reach the largest magnitude, or whose zero point moves."""
    scale, zero = fit_grid(torch.tensor([[0.5, 1.5]]), Grid(2, symmetric=True))
    assert (scale.item(), zero.item()) == (1.0, 2.0)  # [-1.5, 1.5] over 3 steps


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group_size", [None, 5, 16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_error_is_half_a_step_and_codes_are_in_range(bits: int, group_size: int | None, symmetric: bool) -> None:
    """Catches wrong group borders (here with a shorter last group), clamps that bite, and codes out of range."""
    weight = random(6, 48)
    result = rounded(weight, Grid(bits, group_size, symmetric))
    step = result.scale[:, result.groups]
    # a symmetric grid has one point less above zero; asymmetric zero points are rounded
    reach = 1.0 if symmetric else 0.5 + 0.5
    assert torch.all((result.dequantize() - weight).abs() <= reach * step * 1.001)
    assert int(result.codes.max()) <= 2**bits - 1
    for group in range(result.scale.shape[1]):
        values = result.dequantize()[:, result.groups == group]
        assert all(row.unique().numel() <= 2**bits for row in values)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group_size", [None, 8])
def test_weights_on_the_grid_come_back_unchanged(symmetric: bool, group_size: int | None) -> None:
    """Catches a rounding that moves exact grid points, or a refit that does not find the same grid."""
    grid = Grid(3, group_size, symmetric)
    codes = torch.randint(0, 8, (4, 24), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    codes[:, ::8], codes[:, 1::8] = 0, 7  # the full range is in use, so the same grid is found again
    groups = 1 if group_size is None else 3
    zero = torch.full((4, groups), 4.0 if symmetric else 3.0)
    if symmetric:
        codes.clamp_(min=1)
        codes[:, ::8] = 1
    original = QuantizedWeight(codes, torch.full((4, groups), 0.25), zero, 3, group_size, symmetric).dequantize()
    if symmetric:  # [-3, 3] quarter steps do not fill the 7 steps of a symmetric range: give the grid, not the range
        again = on_grid(original, torch.full((4, groups), 0.25), zero, grid)
    else:
        again = rounded(original, grid)
        assert torch.equal(again.scale, torch.full((4, groups), 0.25))
    assert torch.equal(again.dequantize(), original)


def test_zero_stays_zero_and_an_all_zero_row_is_representable() -> None:
    """Catches a division by an empty range and a grid without zero."""
    weight = random(4, 16)
    weight[1] = 0
    weight[2] = weight[2].abs() + 1  # range does not contain zero by itself
    weight[2, 3] = 0
    result = rounded(weight, Grid(4)).dequantize()
    assert torch.equal(result[weight == 0], weight[weight == 0])
    assert torch.isfinite(result).all()


def test_clip_search_lowers_the_error_it_searches() -> None:
    """Catches a search that keeps the worst range, or that never shrinks."""
    weight = random(16, 64)
    weight[:, 0] *= 4  # an outlier makes a smaller range worthwhile
    plain, searched = (rounded(weight, Grid(3, 32, clip_search=clip)) for clip in (False, True))
    errors = [(w.dequantize() - weight).abs().pow(2.4).view(16, 2, 32).sum(2) for w in (plain, searched)]
    assert torch.all(errors[1] <= errors[0])
    assert errors[1].sum() < 0.9 * errors[0].sum()
    assert torch.all(searched.scale <= plain.scale)


def test_clip_search_in_pieces_equals_one_row_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches rows that influence each other's search when they are searched in pieces."""
    weight = random(7, 20)
    together = fit_grid(weight, Grid(3, 8, clip_search=True))
    monkeypatch.setattr("pomona.quantization.grid._CLIP_ELEMENTS", 1)
    alone = fit_grid(weight, Grid(3, 8, clip_search=True))
    assert torch.equal(together[0], alone[0]) and torch.equal(together[1], alone[1])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_clip_search_ends_early_only_where_nothing_is_missed(bits: int, symmetric: bool) -> None:
    """Catches a bound on the error of smaller ranges that gives a row up before its best range."""
    grid = Grid(bits, 16, symmetric, clip_search=True)
    weight = torch.cat([random(40, 16), random(40, 16, seed=1) ** 3, random(40, 16, seed=2).abs() + 1])
    scale, zero = fit_grid(weight, grid)
    widest, middle = fit_grid(weight, Grid(bits, 16, symmetric))
    least = torch.full((120,), torch.inf)
    for step in range(80):  # every fraction for every row, by definition
        tried = widest * (1 - step / 100)
        values = dequantize(quantize(weight, tried, middle, bits), tried, middle)
        least = torch.minimum(least, (values - weight).abs().pow(2.4).sum(1))
    found = (dequantize(quantize(weight, scale, zero, bits), scale, zero) - weight).abs().pow(2.4).sum(1)
    torch.testing.assert_close(found, least)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scales_survive_the_stored_dtype(dtype: torch.dtype) -> None:
    """Catches codes that were chosen for scales which the file cannot hold."""
    scale, zero = fit_grid(random(4, 16), Grid(4), dtype=dtype)
    assert torch.equal(scale.to(dtype).float(), scale)
    assert torch.equal(zero, zero.round()) and zero.min() >= 0 and zero.max() <= 15


def test_inputs_are_not_changed_and_dtype_is_kept() -> None:
    """Catches in-place work on the caller's weight and silent loss of float64."""
    weight = random(4, 10, dtype=torch.float64)
    before = weight.clone()
    result = rounded(weight, Grid(4, 4, clip_search=True))
    assert torch.equal(weight, before)
    assert result.dequantize().dtype == torch.float64
    assert dequantize(result.codes, result.scale[:, result.groups], result.zero[:, result.groups]).shape == (4, 10)


def test_whole_groups_hold_the_same_values() -> None:
    """Catches wrong scales when a ragged last group is replaced by finer groups."""
    weight = random(3, 43)
    ragged = rounded(weight[:, :40], Grid(4, 16))
    whole = ragged.with_whole_groups()
    assert (whole.group_size, whole.scale.shape[1]) == (8, 5)
    assert torch.equal(whole.dequantize(), ragged.dequantize())
    assert rounded(weight[:, :32], Grid(4, 16)).with_whole_groups().group_size == 16


@pytest.mark.parametrize("bits", [1, 9])
def test_widths_that_cannot_be_stored_are_refused(bits: int) -> None:
    """Catches a width that is accepted and only fails after the calibration."""
    with pytest.raises(ConfigError, match="2 to 8 bits"):
        Grid(bits)


def test_empty_groups_are_refused() -> None:
    """Catches a group size of zero, which would divide by zero later."""
    with pytest.raises(ConfigError, match="at least one column"):
        Grid(4, 0)
