"""Muon: parity with torch.optim.Muon, the polynomials, and what batching must not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pomona import anatomy
from pomona.ground.errors import ConfigError
from pomona.optimizers import MuonConfig
from pomona.optimizers.muon import (
    JORDAN,
    Norm,
    Quintic,
    newton_schulz,
    newton_schulz_flops,
    passes,
    polar_express,
    quintics,
    scale_of,
)
from tests.tiny import gpt2, llama

SHAPES = [(12, 12), (30, 12), (12, 30), (16, 12), (1, 5)]


def matrices(rows: int, columns: int, count: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, rows, columns, dtype=dtype, generator=torch.Generator().manual_seed(0))


def plain_newton_schulz(x: Tensor, polynomials: list[Quintic]) -> Tensor:
    """One matrix at a time, straight from the equation."""
    x = x / x.norm()
    for a, b, c in polynomials:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_equals_the_equation(shape: tuple[int, int], steps: int) -> None:
    """Catches a wrong side, a wrong merge of two steps, and matrices of a batch that mix."""
    stack, polynomials = matrices(*shape), polar_express(steps)
    found = newton_schulz(stack, polynomials)
    for one, x in zip(found, stack, strict=True):
        torch.testing.assert_close(one, plain_newton_schulz(x, polynomials), rtol=1e-9, atol=1e-11)


def test_input_is_kept() -> None:
    """Catches work in place on the caller's tensor."""
    stack = matrices(6, 6)
    before = stack.clone()
    newton_schulz(stack, [JORDAN] * 2, norm="schatten-4")
    assert torch.equal(stack, before)


@pytest.mark.parametrize("norm", ["frobenius", "schatten-4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_reach_one(norm: Norm, dtype: torch.dtype) -> None:
    """Catches an update that is not nearly orthogonal: of a spread of 100, all singular values end near 1, and the
    singular vectors are those of the matrix."""
    left, right = (torch.linalg.qr(m)[0] for m in (matrices(24, 24, 1)[0], matrices(40, 24, 1)[0]))
    values = torch.logspace(0, -2, 24, dtype=torch.float64)
    x = (left * values) @ right.T
    found = newton_schulz(x.to(dtype).unsqueeze(0), polar_express(5), norm=norm)[0].double()
    response = (left.T @ found @ right).diagonal()
    rounding = 0.03 if dtype == torch.bfloat16 else 0.0
    assert 0.87 - rounding <= response.min() and response.max() <= 1.13 + rounding
    across = left.T @ found @ right - response.diag()
    assert across.norm() / response.norm() < (0.08 if dtype == torch.bfloat16 else 1e-2)


@pytest.mark.parametrize("norm", ["frobenius", "schatten-4"])
def test_size_and_orientation_do_not_matter(norm: Norm) -> None:
    """Catches a norm that misses a scale, and sides that are not treated alike."""
    stack, polynomials = matrices(20, 9), [JORDAN] * 4
    found = newton_schulz(stack, polynomials, norm=norm)
    torch.testing.assert_close(newton_schulz(stack * 1e3, polynomials, norm=norm), found)
    torch.testing.assert_close(newton_schulz(stack.mT.contiguous(), polynomials, norm=norm), found.mT)


@pytest.mark.parametrize("shape", SHAPES)
def test_schatten_norm_bounds_the_largest_value(shape: tuple[int, int]) -> None:
    """Catches a norm below the spectral one, from which the polynomials diverge: the worst case is rank one."""
    rank_one = matrices(*shape)[:, :, :1] * matrices(*shape)[:, :1, :]
    found = newton_schulz(rank_one.bfloat16(), polar_express(5), norm="schatten-4").double()
    values = torch.linalg.svdvals(found)
    assert values[:, 0].min() > 0.8 and values[:, 0].max() < 1.2


@pytest.mark.parametrize("norm", ["frobenius", "schatten-4"])
def test_zero_matrix(norm: Norm) -> None:
    """Catches a division by zero for a frozen branch."""
    assert not newton_schulz(torch.zeros(2, 4, 6), [JORDAN] * 5, norm=norm).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 4, 5])
def test_flops_are_those_of_the_products(shape: tuple[int, int], steps: int) -> None:
    """Catches a formula in the ledger that is not what runs: torch's counter agrees."""
    with FlopCounterMode(display=False) as counter:
        newton_schulz(matrices(*shape), [JORDAN] * steps)
    assert counter.get_total_flops() == 3 * newton_schulz_flops(*shape, steps)


def test_two_steps_are_merged_only_where_it_pays() -> None:
    """Catches merging for square matrices, where it costs more products."""
    assert passes(8, 8, 5) == [1] * 5 and passes(8, 24, 5) == passes(24, 8, 5) == [2, 2, 1]

    def merged(short: int, long: int) -> int:
        return 4 * short**2 * long + 10 * short**3

    def apart(short: int, long: int) -> int:
        return 2 * (4 * short**2 * long + 2 * short**3)

    for long in range(8, 40):
        assert (passes(8, long, 2) == [2]) == (merged(8, long) < apart(8, long))


def test_polar_express_as_published() -> None:
    """Catches an error in the exchange: the first polynomials of arXiv:2505.16932, Algorithm 1."""
    published = [
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    ]
    for found, wanted in zip(polar_express(5, safety=0.0), published, strict=True):
        assert found == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("steps", [3, 4, 5, 6])
def test_polar_express_is_better_than_jordan(steps: int) -> None:
    """Catches polynomials that are not optimal: the worst error on [0.001, 1] is below that of Jordan's quintic."""

    def worst(polynomials: list[Quintic]) -> float:
        x = torch.logspace(-3, 0, 2000, dtype=torch.float64)
        for a, b, c in polynomials:
            x = a * x + b * x**3 + c * x**5
        return float((x - 1).abs().max())

    assert worst(polar_express(steps)) < worst([JORDAN] * steps)


def test_own_polynomials() -> None:
    """Catches a list that is not followed: the last one is repeated, as torch repeats its only one."""
    own = ((1.0, 0.0, 0.0), (1.5, -0.5, 0.0))
    assert quintics(own, 4) == [own[0], own[1], own[1], own[1]] and quintics(own, 1) == [own[0]]
    with pytest.raises(ConfigError, match="at least 1 item"):
        MuonConfig.parse({"polynomial": []})


def run(body: anatomy.Anatomy, optimizer: Any, steps: int) -> None:
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for _, parameter in body.matrices():
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 0.1
        optimizer.step()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"nesterov": False, "momentum": 0.8}, {"nesterov": False, "momentum": 0.8}),
        ({"scaling": "match_rms_adamw", "learning_rate": 1e-3}, {"adjust_lr_fn": "match_rms_adamw", "lr": 1e-3}),
        ({"steps": 3, "weight_decay": 0.0}, {"ns_steps": 3, "weight_decay": 0.0}),
        (
            {"polynomial": ((1.875, -1.25, 0.375),), "steps": 7, "weight_decay": 0.5},
            {"ns_coefficients": (1.875, -1.25, 0.375), "ns_steps": 7, "weight_decay": 0.5},
        ),
    ],
    ids=["defaults", "plain momentum", "match_rms", "steps", "coefficients"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_parity_with_torch(ours: dict[str, Any], theirs: dict[str, Any], precision: str) -> None:
    """Catches any difference from torch.optim.Muon beyond its own bfloat16, over four steps."""
    body, other = anatomy.of(llama()), anatomy.of(llama())
    start = [parameter.detach().clone() for _, parameter in body.matrices()]
    run(body, MuonConfig.parse({**ours, "precision": precision}).build(body, total_steps=9), 4)
    run(other, torch.optim.Muon([p for _, p in other.matrices()], **{"lr": 0.02, **theirs}), 4)
    for before, (_, a), (_, b) in zip(start, body.matrices(), other.matrices(), strict=True):
        difference = (a - b).norm() / (b - before).norm()
        # Five steps in bfloat16 on their side, on both sides in bf16; 2^-9 each, enlarged by the steep polynomial.
        assert difference < (0.02 if precision == "fp32" else 0.03)


def test_transposed_storage_counts_as_the_map_that_it_is() -> None:
    """Catches a rate scaled by the stored shape: GPT-2 keeps (inputs, outputs)."""
    assert scale_of(8, 2, "original") == 2.0 and scale_of(2, 8, "original") == 1.0
    body = anatomy.of(gpt2())
    optimizer = MuonConfig(weight_decay=0.0, precision="fp32", momentum=0.0).build(body, total_steps=9)
    weight = body.blocks[0].ffn.up
    grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    before = weight.read().clone()
    weight.parameter.grad = grad.T.contiguous()
    optimizer.step()
    wanted = plain_newton_schulz(grad.double(), [JORDAN] * 5) * 0.02 * 2.0  # sqrt(128 / 32)
    torch.testing.assert_close((before - weight.read()).double(), wanted, rtol=1e-3, atol=1e-5)


def test_rest_is_adamw() -> None:
    """Catches the matrices' rate on embeddings and norms: they take exactly torch's AdamW."""
    body, other = anatomy.of(llama()), anatomy.of(llama())
    optimizer = MuonConfig(rest_learning_rate=1e-3, rest_weight_decay=0.2).build(body, total_steps=9)
    matrix = {id(p) for _, p in other.matrices()}
    rest = [p for p in other.model.parameters() if id(p) not in matrix]
    groups = [{"params": [p], "weight_decay": 0.2 if p.ndim > 1 else 0.0} for p in rest]
    reference = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    for step in range(3):
        for model in (body.model, other.model):
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        reference.step()
    ours = dict(body.model.named_parameters())
    for name, parameter in other.model.named_parameters():
        assert torch.equal(ours[name], parameter) == (id(parameter) not in matrix)
