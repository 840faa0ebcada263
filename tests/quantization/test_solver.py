"""The GPTQ solver against its equations, a brute-force reference, and its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.references.gptq_textbook import gptq_textbook
from pomona.ground.errors import PomonaError
from pomona.quantization import solver
from pomona.quantization.codes import QuantizedWeight, on_grid
from pomona.quantization.grid import Grid, dequantize, fit_grid, quantize
from pomona.quantization.solver import gptq_solve


def problem(
    outputs: int = 12, inputs: int = 24, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """A weight and the second moments of correlated inputs of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    mixing = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    sizes = torch.linspace(-1, 1, inputs, dtype=torch.float64)[torch.randperm(inputs, generator=generator)].exp()
    samples = torch.randn(4 * inputs, inputs, generator=generator, dtype=torch.float64) @ mixing * sizes
    return weight.to(dtype), (samples.T @ samples / inputs).to(dtype)


def damped(hessian: Tensor, damping: float = 0.01) -> Tensor:
    return hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=hessian.dtype)


def objective(weight: Tensor, quantized: Tensor, hessian: Tensor) -> Tensor:
    gap = weight - quantized
    return ((gap @ hessian) * gap).sum()


def brute_force(weight: Tensor, hessian: Tensor, grid: Grid, static_groups: bool) -> Tensor:
    """OBQ in a fixed order: after each column solve for the best remaining weights, with a fresh inverse each time."""
    hessian, original, result = damped(hessian), weight, torch.zeros_like(weight)
    weight = weight.clone()
    inputs = weight.shape[1]
    width = grid.width(inputs)
    for i in range(inputs):
        if i % width == 0:
            here = (original if static_groups else weight)[:, i : i + width]
            scale, zero = (part[:, 0] for part in fit_grid(here, replace(grid, group_size=None)))
        result[:, i] = dequantize(quantize(weight[:, i], scale, zero, grid.bits), scale, zero)
        inverse = torch.linalg.inv(hessian[i:, i:])
        error = (weight[:, i] - result[:, i]) / inverse[0, 0]
        weight[:, i:] -= error[:, None] * inverse[0]
    return result


@pytest.mark.parametrize("damping", [0.0, 0.01, 3.0])
@pytest.mark.parametrize("group_size", [None, 8, 10])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("act_order", [False, True])
def test_identity_hessian_gives_round_to_nearest_exactly(
    damping: float, group_size: int | None, symmetric: bool, act_order: bool
) -> None:
    """Catches any compensation between inputs that are not correlated, and a rounding rule of its own."""
    weight, _ = problem(dtype=torch.float32)
    grid = Grid(3, group_size, symmetric)
    for constant in (0.01, 7.0):
        solution = gptq_solve(
            weight, constant * torch.eye(24), grid, damping=damping, act_order=act_order, static_groups=act_order
        )
        expected = on_grid(weight, *fit_grid(weight, grid), grid)
        assert torch.equal(solution.weight.codes, expected.codes)
        assert torch.equal(solution.weight.dequantize(), expected.dequantize())


@pytest.mark.parametrize("group_size", [None, 6])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_loss_is_the_trace_of_the_damped_objective(group_size: int | None, act_order: bool, seed: int) -> None:
    """Catches a wrong pivot (diag(H^-1) for U[i, i]) or a deviation that is not W - Q: trace(D H D^T) = sum e^2."""
    weight, hessian = problem(seed=seed)
    solution = gptq_solve(weight, hessian, Grid(3, group_size), act_order=act_order, static_groups=True, block_size=7)
    expected = objective(weight, solution.weight.dequantize(), damped(hessian))
    torch.testing.assert_close(solution.loss_O.sum(), expected, rtol=1e-9, atol=0)
    undamped = objective(weight, solution.weight.dequantize(), hessian)
    torch.testing.assert_close(solution.error_O.sum(), undamped, rtol=1e-9, atol=0)


@pytest.mark.parametrize("static_groups", [False, True])
@pytest.mark.parametrize("group_size", [None, 8, 10])
@pytest.mark.parametrize("act_order", [False, True])
def test_block_size_does_not_change_the_codes(static_groups: bool, group_size: int | None, act_order: bool) -> None:
    """Catches compensation lost or doubled at the borders of blocks and pieces."""
    weight, hessian = problem(inputs=140)
    expected: QuantizedWeight | None = None
    for block_size in (1, 7, 128, 140):
        solution = gptq_solve(
            weight,
            hessian,
            Grid(3, group_size),
            act_order=act_order,
            static_groups=static_groups,
            block_size=block_size,
        )
        expected = expected or solution.weight
        assert torch.equal(solution.weight.codes, expected.codes)
        torch.testing.assert_close(solution.weight.scale, expected.scale, rtol=1e-9, atol=0)


@pytest.mark.parametrize("static_groups", [False, True])
@pytest.mark.parametrize("group_size", [None, 8, 10])
@pytest.mark.parametrize("seed", range(3))
def test_same_values_as_brute_force_obq(static_groups: bool, group_size: int | None, seed: int) -> None:
    """Catches any departure from the algorithm: the reference solves each step anew, without Cholesky."""
    weight, hessian = problem(inputs=32, seed=seed)
    grid = Grid(3, group_size)
    result = gptq_solve(weight, hessian, grid, static_groups=static_groups).weight
    expected = brute_force(weight, hessian, grid, static_groups)
    torch.testing.assert_close(result.dequantize(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("group_size", "symmetric"), [(None, False), (8, False), (10, False), (48, False), (None, True)]
)
def test_same_values_as_the_textbook(group_size: int | None, symmetric: bool) -> None:
    """Catches groups that are fitted to stale weights, and wrong nesting of blocks and groups.

    Symmetric groups are left out: the weight that sets such a range lies halfway between two codes, so that the last
    bit of the compensation decides its code.
    """
    weight, hessian = problem(inputs=100)
    expected = gptq_textbook(weight, hessian, bits=3, group_size=group_size, symmetric=symmetric, block_size=1000)
    for block_size in (16, 128):
        result = gptq_solve(weight, hessian, Grid(3, group_size, symmetric), block_size=block_size)
        torch.testing.assert_close(result.weight.dequantize(), expected, rtol=1e-7, atol=1e-9)


def test_reference_groups_reproduce_the_stale_fit() -> None:
    """Catches a parity switch that does nothing: groups within a block lack that block's compensation."""
    weight, hessian = problem(inputs=64)
    grid = Grid(3, 8)
    # blocks as small as the groups have no stale values, so both agree; larger blocks must not
    fresh = gptq_solve(weight, hessian, grid, block_size=8).weight
    same = gptq_solve(weight, hessian, grid, block_size=8, reference_groups=True).weight
    assert torch.equal(fresh.codes, same.codes)
    stale = gptq_solve(weight, hessian, grid, block_size=64, reference_groups=True).weight
    # with one block, every group is fitted to the original weight: the static grid
    assert torch.equal(stale.scale, fit_grid(weight, grid)[0])
    static = gptq_solve(weight, hessian, grid, static_groups=True).weight
    assert torch.equal(stale.codes, static.codes)
    middle = gptq_solve(weight, hessian, grid, block_size=16, reference_groups=True).weight
    assert not torch.equal(middle.scale, stale.scale) and not torch.equal(middle.scale, fresh.scale)


def test_weights_on_the_grid_come_back_unchanged() -> None:
    """Catches compensation for errors that were not made, and more than 2^bits values per row and group."""
    _, hessian = problem(inputs=32)
    codes = torch.randint(0, 8, (12, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    codes[:, ::16], codes[:, 1::16] = 0, 7
    zero = torch.full((12, 2), 3.0, dtype=torch.float64)
    weight = QuantizedWeight(codes, torch.full_like(zero, 0.25), zero, 3, 16, False).dequantize()
    result = gptq_solve(weight, hessian, Grid(3, 16)).weight
    assert torch.equal(result.dequantize(), weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [None, 10])
@pytest.mark.parametrize("act_order", [False, True])
def test_few_distinct_values_and_codes_in_range(bits: int, group_size: int | None, act_order: bool) -> None:
    """Catches codes beyond the grid and scales that belong to another group."""
    weight, hessian = problem(inputs=25)
    result = gptq_solve(weight, hessian, Grid(bits, group_size), act_order=act_order).weight
    assert result.codes.dtype == torch.uint8 and int(result.codes.max()) <= 2**bits - 1
    values = result.dequantize()
    for group in range(result.scale.shape[1]):
        assert all(row.unique().numel() <= 2**bits for row in values[:, result.groups == group])


@pytest.mark.parametrize("static_groups", [False, True])
def test_order_of_storage_does_not_matter(static_groups: bool) -> None:
    """Catches a permutation that is undone for the codes but not for their groups."""
    weight, hessian = problem(inputs=40)
    result = gptq_solve(weight, hessian, Grid(3, 8), act_order=True, static_groups=static_groups).weight
    assert (result.group_index is None) == static_groups
    order = torch.argsort(hessian.diagonal(), descending=True)
    stored = replace(result, codes=result.codes[:, order], group_index=result.groups[order])
    back = torch.argsort(order)
    assert torch.equal(stored.dequantize()[:, back], result.dequantize())


def test_act_order_is_gptq_on_permuted_columns() -> None:
    """Catches an order that is not by falling diagonal, or a permutation of the Hessian on one side only."""
    weight, hessian = problem(inputs=40)
    order = torch.argsort(hessian.diagonal(), descending=True)
    result = gptq_solve(weight, hessian, Grid(3, 8), act_order=True).weight
    plain = gptq_solve(weight[:, order], hessian[order][:, order], Grid(3, 8)).weight
    assert torch.equal(result.dequantize()[:, order], plain.dequantize())


@pytest.mark.parametrize("clip_search", [False, True])
def test_better_than_round_to_nearest(clip_search: bool) -> None:
    """Catches compensation with the wrong sign: on correlated inputs the objective must fall, and clearly."""
    for seed in range(3):
        weight, hessian = problem(inputs=48, seed=seed)
        grid = Grid(3, 16, clip_search=clip_search)
        ours = objective(weight, gptq_solve(weight, hessian, grid).weight.dequantize(), hessian)
        theirs = objective(weight, on_grid(weight, *fit_grid(weight, grid), grid).dequantize(), hessian)
        assert ours < 0.7 * theirs


def test_dead_inputs_are_zeroed_and_leave_the_rest_alone() -> None:
    """Catches a singular Hessian that is only saved by damping, and weights of dead inputs that are kept."""
    weight, hessian = problem(inputs=24)
    dead = torch.tensor([0, 5, 23])
    hessian[dead] = 0
    hessian[:, dead] = 0
    solution = gptq_solve(weight, hessian, Grid(4), damping=0.0)
    assert solution.dead == 3 and solution.damping == 0.0
    assert torch.equal(solution.weight.dequantize()[:, dead], torch.zeros(12, 3, dtype=torch.float64))
    cleared = weight.index_fill(1, dead, 0.0)
    alive = torch.tensor([i for i in range(24) if i not in dead.tolist()])
    scale, zero = fit_grid(cleared, Grid(4))
    assert torch.equal(solution.weight.scale, scale) and torch.equal(solution.weight.zero, zero)
    rest = gptq_solve(cleared[:, alive], hessian[alive][:, alive], Grid(4), damping=0.0).weight
    assert torch.equal(solution.weight.dequantize()[:, alive], rest.dequantize())


def test_damping_is_raised_when_the_factorization_fails() -> None:
    """Catches a solver that gives up at once, or that raises damping without saying so."""
    weight, hessian = problem(inputs=8, dtype=torch.float32)
    low, vectors = torch.linalg.eigh(hessian)
    low[0] = -0.05 * hessian.diagonal().mean()
    solution = gptq_solve(weight, vectors @ low.diag() @ vectors.T, Grid(4), damping=0.01)
    assert solution.damping == pytest.approx(0.1)


def test_a_hopeless_hessian_is_refused_by_name() -> None:
    """Catches endless retries and an error that does not say which layer."""
    weight, hessian = problem(inputs=8)
    with pytest.raises(PomonaError, match=r"blocks\.3\.ffn\.down is not positive definite[\s\S]*damping of at most 10"):
        gptq_solve(weight, hessian - 1000 * torch.eye(8), Grid(4), name="blocks.3.ffn.down")
    hessian[2, 2] = torch.nan
    with pytest.raises(PomonaError, match=r"calibration inputs of blocks\.3\.ffn\.down are not finite"):
        gptq_solve(weight, hessian, Grid(4), name="blocks.3.ffn.down")


def test_inputs_are_not_changed() -> None:
    """Catches work in the caller's memory."""
    weight, hessian = problem()
    kept = weight.clone(), hessian.clone()
    gptq_solve(weight, hessian, Grid(3, 8), act_order=True)
    assert torch.equal(weight, kept[0]) and torch.equal(hessian, kept[1])


def test_bf16_products_only_where_their_rounding_is_negligible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a fast path that costs accuracy: equal error with it, and no use of it where it would hurt."""
    weight, hessian = problem(64, 300, dtype=torch.float32)
    used: list[bool] = []
    serves = solver._HalfPrecision.serves

    def watched(self: solver._HalfPrecision, start: int, stop: int) -> bool:
        used.append(serves(self, start, stop))
        return used[-1]

    monkeypatch.setattr(solver, "has_fast_bfloat16", lambda: True)
    monkeypatch.setattr(solver._HalfPrecision, "serves", watched)
    exact = gptq_solve(weight.double(), hessian.double(), Grid(4, 64)).weight.dequantize()
    fast = gptq_solve(weight, hessian, Grid(4, 64)).weight.dequantize()
    assert used and any(used)
    true = hessian.double()
    assert objective(weight.double(), fast.double(), true) < 1.01 * objective(weight.double(), exact, true)
    # one input a thousand times larger than the rest, and correlated with them: its compensation would drown in bf16
    used.clear()
    loud = torch.eye(300)
    loud[0] = 1000.0
    gptq_solve(weight, loud.T @ hessian @ loud, Grid(8, 64), damping=1e-6)
    assert not all(used)
