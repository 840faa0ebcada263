"""Logarithms of Bessel functions: closed forms, an exact reference, identities at every size, the ends, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from pomona.numerics import bessel_native, bessel_torch, iv_gap, iv_ratio, kv_ratio, log_bessel, log_iv, log_kv
from pomona.numerics.exact import log_i, log_k

EXACT = 1e-13
"""Allowed error of max(1, |logarithm|)."""


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs through both implementations."""
    if request.param == "torch":
        monkeypatch.setattr(bessel_native, "available", lambda: False)
    elif not bessel_native.available():
        pytest.skip("no C++ compiler on this machine")


def spread(count: int, most_v: float, most_x: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Orders and arguments of every size."""
    draw = np.random.default_rng(seed)
    v = np.exp(draw.uniform(math.log(1e-3), math.log(most_v), count))
    v[::7] = np.round(v[::7])  # whole orders, 0 among them
    return torch.from_numpy(v), torch.from_numpy(np.exp(draw.uniform(math.log(1e-3), math.log(most_x), count)))


def real(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensor, expected: Tensor, error: float = EXACT) -> bool:
    return bool(((found - expected).abs() <= error * expected.abs().clamp(min=1)).all())


def test_half_orders_by_hand() -> None:
    """Catches a wrong factor: I and K of order 1/2 are elementary."""
    x = torch.logspace(-3, 6, 200, dtype=torch.float64)
    sinh = torch.where(x > 20, x - math.log(2), torch.sinh(x.clamp(max=20)).log())
    assert close(log_iv(0.5, x), 0.5 * (2 / (math.pi * x)).log() + sinh)
    assert close(log_kv(0.5, x), 0.5 * (math.pi / (2 * x)).log() - x)


@pytest.mark.parametrize(("most_v", "most_x"), [(25.0, 25.0), (200.0, 200.0)])
def test_against_forty_digits(most_v: float, most_x: float) -> None:
    """Catches a missing term, a border of branches in the wrong place, and a coefficient that was mistyped."""
    v, x = spread(60, most_v, most_x)
    pairs = list(zip(v.tolist(), x.tolist(), strict=True))
    assert close(log_iv(v, x), real([log_i(*pair) for pair in pairs]))
    assert close(log_kv(v, x), real([log_k(*pair) for pair in pairs]))


def test_where_the_logarithm_vanishes() -> None:
    """Catches v asinh(v / x) in plain doubles, which is off by 1e-11 where log I crosses 0 at large orders."""
    v = torch.linspace(300.0, 1500.0, 12, dtype=torch.float64)
    x = 0.6627434193491816 * v
    exact = [(log_i(a, b), log_k(a, b)) for a, b in zip(v.tolist(), x.tolist(), strict=True)]
    assert close(log_iv(v, x), real([i for i, _ in exact]), 1e-14)
    assert close(log_kv(v, x), real([k for _, k in exact]), 1e-14)


def test_wronskian_at_every_size() -> None:
    """Catches errors where no reference is at hand: I_v K_{v+1} + I_{v+1} K_v = 1 / x, here with x up to 1e6."""
    v, x = spread(20_000, 1e5, 1e6)
    i, k = log_iv(v, x), log_kv(v, x)
    assert bool(i.isfinite().all() and k.isfinite().all())
    left = i + k + torch.log(kv_ratio(v, x) + iv_ratio(v, x))
    scale = torch.stack([i.abs(), k.abs()]).amax(0).clamp(min=1)
    assert bool(((left + x.log()).abs() <= 5e-15 * scale).all())


def test_agrees_with_scipy_where_that_is_finite() -> None:
    """Catches a function of another name or scaling."""
    v, x = spread(2000, 300.0, 600.0)
    with np.errstate(all="ignore"):
        theirs_i = torch.from_numpy(np.log(special.ive(v.numpy(), x.numpy()))) + x
        theirs_k = torch.from_numpy(np.log(special.kve(v.numpy(), x.numpy()))) - x
    fine = theirs_i.isfinite() & theirs_k.isfinite()
    assert fine.double().mean() > 0.5
    assert close(log_iv(v, x)[fine], theirs_i[fine], 1e-11) and close(log_kv(v, x)[fine], theirs_k[fine], 1e-11)


def test_monotone() -> None:
    """Catches a jump at a border of branches: I grows with x and falls with v."""
    x = torch.linspace(1e-3, 150.0, 20_001, dtype=torch.float64)
    for v in (0.0, 0.3, 5.0, 19.9):
        assert bool((log_iv(v, x).diff() > 0).all()) and bool((log_kv(v, x).diff() < 0).all())
    assert bool((log_iv(x, real([7.0])).diff() < 0).all())


def test_ratios_and_their_gap() -> None:
    """Catches cancellation: ratios at huge arguments, where exp of a difference of logarithms has ten digits left."""
    x = real([1e3, 1e6, 1e9])
    half = 1 / torch.tanh(x) - 1 / x  # coth x - 1/x = I_{3/2} / I_{1/2}
    torch.testing.assert_close(iv_ratio(0.5, x), half, rtol=1e-15, atol=0)
    torch.testing.assert_close(iv_gap(0.5, x), 1 / x, rtol=1e-14, atol=0)
    torch.testing.assert_close(kv_ratio(0.5, x), 1 + 1 / x, rtol=1e-15, atol=0)
    v, x = spread(3000, 100.0, 100.0)
    torch.testing.assert_close(iv_ratio(v, x), (log_iv(v + 1, x) - log_iv(v, x)).exp(), rtol=3e-12, atol=0)
    torch.testing.assert_close(kv_ratio(v, x), (log_kv(v + 1, x) - log_kv(v, x)).exp(), rtol=3e-12, atol=0)
    torch.testing.assert_close(iv_gap(v, x), 1 - iv_ratio(v, x), rtol=0, atol=1e-15)


@pytest.mark.parametrize("function", [log_iv, log_kv, iv_ratio, kv_ratio, iv_gap])
def test_gradients(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Catches a wrong derivative in any branch, and one that cannot be derived again."""
    v = real([0.0, 0.4, 3.0, 15.0, 40.0, 400.0, 0.2])
    x = real([0.7, 1.5, 6.0, 18.0, 9.0, 300.0, 150.0]).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(v, x), (x,), atol=1e-6)
    if function in (log_iv, log_kv):
        assert torch.autograd.gradgradcheck(lambda x: function(v, x), (x,), atol=1e-6)


def test_the_ends() -> None:
    """Catches nan where a limit exists, and a number where there is none."""
    inf, nan = math.inf, math.nan
    v = real([0.0, 2.0, 2.0, -1.0, 2.0, nan])
    x = real([0.0, 0.0, inf, 1.0, -1.0, 1.0])
    torch.testing.assert_close(log_iv(v, x).nan_to_num(99, inf, -inf), real([0, -inf, inf, 99, 99, 99]))
    torch.testing.assert_close(log_kv(v, x).nan_to_num(99, inf, -inf)[[0, 1, 2, 4]], real([inf, inf, -inf, 99]))
    torch.testing.assert_close(log_kv(v[3], x[3]), log_kv(1.0, x[3]))
    edges = real([5e-324, 1e-300, 1e-160, 1e160, 1e300])
    for order in (0.0, 0.3, 1.0, 19.0, 1e5, 1e200):
        assert not bool(log_iv(order, edges).isnan().any() or log_kv(order, edges).isnan().any())
        assert bool(log_iv(order, edges).isfinite().all()), order
    assert close(log_kv(3.0, edges[1:2]), real([math.log(8) + 3 * 300 * math.log(10)]))


def test_shapes_and_dtypes() -> None:
    """Catches a result in another dtype, an order that is not broadcast, and results that depend on neighbours."""
    v, x = spread(3000, 1e4, 1e4)
    whole = log_kv(v, x)
    alone = torch.stack([log_kv(v[i], x[i]) for i in range(0, 3000, 211)])
    torch.testing.assert_close(whole[::211], alone, rtol=1e-15, atol=1e-14)
    assert log_iv(torch.ones(3, 1), torch.ones(4)).shape == (3, 4)
    assert log_iv(1.0, torch.ones(2)).dtype == torch.float32
    assert log_bessel.evaluate(v[:0], x[:0], first=True, wanted="value").shape == (0,)


def test_compiled_and_torch_are_one_function() -> None:
    """Catches a change in one of them alone."""
    v, x = spread(5000, 1e5, 1e6, seed=3)
    if not bessel_native.available():
        return
    for first in (True, False):
        for wanted in ("value", "ratio", "gap") if first else ("value", "ratio"):
            theirs = bessel_torch.bessel(v, x, first=first, wanted=wanted)  # type: ignore[arg-type]
            ours = bessel_native.bessel(v, x, first=first, wanted=wanted)
            assert close(ours, theirs, 3e-14), wanted
