"""Logarithms and ratios of the modified Bessel functions I_v(x) and K_v(x), written out in torch, float64.

Three branches cover every order v >= 0 and argument x > 0, with s = sqrt(v^2 + x^2):

large, s > 20.  Olver's uniform expansions (DLMF 10.41.3 and 4), rearranged in powers of 1/s so that v may be 0:
        log I =  (s - v asinh(v/x)) - log(2 pi s) / 2 + log(1 + sum_k p_k(v^2/s^2) / s^k)
        log K = -(s - v asinh(v/x)) + log(pi / (2 s)) / 2 + log(1 + sum_k (-1)^k p_k(v^2/s^2) / s^k)
    At v = 0 this is Hankel's expansion. The bracket is a difference of large numbers that vanishes at x = 0.663 v, so
    it is computed in pairs of doubles (high + low), which keeps the *absolute* error near 1e-16 there. From the
    expansion of the derivative (DLMF 10.41.11) follow ratios without cancellation, W = sum_k w_k(v^2/s^2) / s^k:
        I_{v+1} / I_v = x / (s + v) - x W / (s^2 U)      K_{v+1} / K_v = (s + v) / x + x W~ / (s^2 U~)
small, I.       The power series, whose terms are all positive.
small, K.       x >= 2: K = int_0^inf exp(-x cosh t) cosh(v t) dt by the trapezoidal rule (exponentially convergent).
                x < 2: Temme's series at an order within 1/2 of 0, then upwards in the order, scaled by (2/x)^n.

No intermediate leaves the range of a double. `bessel.cpp` computes the same with the same tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pomona.numerics.bessel_tables import CELLS, FAR, FEW, MIDDLE, NEAR, NODES, STEP, TERMS, tables

Wanted = Literal["value", "ratio", "gap"]
"""log I_v; I_{v+1} / I_v; 1 - I_{v+1} / I_v, which is small for large x. Likewise K (without gap)."""

LN2_HIGH, LN2_LOW = float.fromhex("0x1.62e42fefa38p-1"), float.fromhex("0x1.ef35793c7673p-45")
"""log 2 in two parts; the first has so few bits that its products with exponents are exact."""
HALF_LOG_2PI, HALF_LOG_HALF_PI = math.log(2 * math.pi) / 2, math.log(math.pi / 2) / 2
LIFT = 2.0**512
"""Brings tiny numbers into the range where they have all their bits."""


def bessel(v: Tensor, x: Tensor, *, first: bool, wanted: Wanted) -> Tensor:
    """Each element by its own branch.

    Args:
        v, x: float64, one shape.
        first: I, else K.
        wanted: see `Wanted`.
    Returns:
        float64; nan where x < 0, v < 0 (of I; K is even in v) or either is nan.
    """
    shape, v, x = v.shape, v.reshape(-1) if first else v.reshape(-1).abs(), x.reshape(-1)
    reach = v * v + x * x
    usual = (v >= 0) & (x > 0) & v.isfinite() & x.isfinite()
    far, near = usual & (reach > FAR**2), usual & (reach <= FAR**2) & (reach > NEAR**2)
    low = usual & (reach <= NEAR**2)
    parts: list[tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]] = [
        (far, lambda v, x: _expansion(v, x, FEW, first, wanted)),
        (near, lambda v, x: _expansion(v, x, TERMS, first, wanted)),
    ]
    if first:
        parts.append((low, lambda v, x: _power_series(v, x, wanted)))
    else:
        parts.append((low & (x >= MIDDLE), lambda v, x: _trapezoid(v, x, wanted)))
        parts.append((low & (x < MIDDLE), lambda v, x: _temme(v, x, wanted)))
    out = _at_the_ends(v, x, first, wanted)
    for where, compute in parts:
        chosen = where.nonzero()[:, 0]
        if chosen.numel():
            out[chosen] = compute(v[chosen], x[chosen])
    return out.view(shape)


def _at_the_ends(v: Tensor, x: Tensor, first: bool, wanted: Wanted) -> Tensor:
    """x = 0, x = infinity, and nan everywhere else."""
    at_0 = {"value": -math.inf, "ratio": 0.0, "gap": 1.0} if first else {"value": math.inf, "ratio": math.inf}
    at_infinity = {"value": math.inf if first else -math.inf, "ratio": 1.0, "gap": 0.0}
    out = torch.full_like(x, math.nan)
    fine = (v >= 0) & v.isfinite()
    out[fine & (x == 0)] = at_0[wanted]
    out[fine & (x == math.inf)] = at_infinity[wanted]
    if first and wanted == "value":
        out[(v == 0) & (x == 0)] = 0.0
    return out


# ---- large order or argument


def _expansion(v: Tensor, x: Tensor, terms: int, first: bool, wanted: Wanted) -> Tensor:
    large = torch.maximum(v, x) > 2.0**400  # squares would leave the range
    scale = torch.ones_like(x).masked_fill(large, 2.0**600)
    vv, xx = _product(v / scale, v / scale), _product(x / scale, x / scale)
    both = _sum(vv.high, xx.high)
    root = both.high.sqrt()
    square = _product(root, root)
    rest = (both.high - square.high) - square.low + (both.low + vv.low + xx.low)
    s, s_low = root * scale, rest / (2 * root) * scale
    value, slope = _debye_sums(s, vv.high / both.high, terms, 1.0 if first else -1.0)
    correction = (x / s) * (slope / (1 + value)) / s
    if wanted == "ratio":
        return x / (s + v) - correction if first else (v + s) / x + correction
    if wanted == "gap":
        return (v + v * (v / (s + x))) / (s + v) + correction
    turn = _times(v, _log_of_quotient(v, s, s_low, x))
    bracket = _sum(s, -turn.high)
    low = bracket.low + (s_low - turn.low)
    rest = -0.5 * s.log() + value.log1p() + (-HALF_LOG_2PI if first else HALF_LOG_HALF_PI)
    return bracket.high + (low + rest) if first else -bracket.high + (rest - low)


def _debye_sums(s: Tensor, square: Tensor, terms: int, sign: float) -> tuple[Tensor, Tensor]:
    """sum_{k >= 1} p_k (sign / s)^k and sum_{k >= 0} w_k (sign / s)^k."""
    made, inverse = tables(), sign / s
    value, slope = torch.zeros_like(s), torch.zeros_like(s)
    for k in range(terms, 0, -1):
        start, begin = (k - 1) * (k + 2) // 2, (k - 1) * k // 2
        value = value * inverse + _horner(made.debye[start : start + k + 1], square)
        slope = slope * inverse + _horner(made.slope[begin : begin + k], square)
    return value * inverse, slope


def _log_of_quotient(v: Tensor, s: Tensor, s_low: Tensor, x: Tensor) -> Two:
    """log((v + s) / x) = asinh(v / x), to about 1e-21."""
    top = _sum(v, s)
    top_low = top.low + s_low
    tiny, huge = x < 2.0**-500, top.high > 2.0**500
    x = torch.where(tiny, x * LIFT, x)
    high, low = (torch.where(huge, part / LIFT, part) for part in (top.high, top_low))
    quotient = high / x
    back = _product(quotient, x)
    rest = ((high - back.high) - back.low + low) / x
    return _logarithm(quotient, rest, 512.0 * (tiny.to(x.dtype) + huge.to(x.dtype)))


# ---- small order and argument


def _power_series(v: Tensor, x: Tensor, wanted: Wanted) -> Tensor:
    y, terms = 0.25 * x * x, 10 + int(1.45 * float(x.max()))

    def series(v: Tensor) -> Tensor:  # sum_{k >= 1} y^k / (k! (v + 1)_k)
        nested = torch.zeros_like(v)
        for k in range(terms, 0, -1):
            q = y / (k * (v + k))
            nested = nested * q + q
        return nested

    if wanted == "value":
        return v * _log_half(x) - _log_gamma_1p(v) + series(v).log1p()
    ratio = 0.5 * x / (v + 1) * (1 + series(v + 1)) / (1 + series(v))
    return ratio if wanted == "ratio" else 1 - ratio


def _log_gamma_1p(v: Tensor) -> Tensor:
    """log Gamma(1 + v) for 0 <= v <= 20: (m + 1) ... (m + n) Gamma(1 + m) with v = m + n, |m| <= 1/2."""
    n = v.round()
    m = v - n
    made = 1 / (_horner(tables().even, m * m) + m * _horner(tables().odd, m * m))
    for j in range(1, int(n.max()) + 1):
        made = made * torch.where(n >= j, m + j, 1.0)
    return made.log()


def _log_half(x: Tensor) -> Tensor:
    """log(x / 2), also of numbers so small that they have lost bits, or would when they are halved."""
    tiny = x < 2.0**-500
    return (0.5 * torch.where(tiny, x * LIFT, x)).log() - math.log(LIFT) * tiny.to(x.dtype)


def _trapezoid(v: Tensor, x: Tensor, wanted: Wanted) -> Tensor:
    steps = torch.tensor(tables().cosh, dtype=x.dtype, device=x.device)
    weights = torch.exp(-x[:, None] * steps)
    weights[:, 0] *= 0.5
    times = STEP * torch.arange(NODES, dtype=x.dtype, device=x.device)
    total = (weights * torch.cosh(v[:, None] * times)).sum(1)
    if wanted == "value":
        return (total * STEP).log() - x
    return (weights * torch.cosh((v[:, None] + 1) * times)).sum(1) / total


def _temme(v: Tensor, x: Tensor, wanted: Wanted) -> Tensor:
    made, n = tables(), v.round()
    m = v - n
    even, odd = _horner(made.even, m * m), _horner(made.odd, m * m)
    plus, minus = even + m * odd, even - m * odd  # 1 / Gamma(1 + m) and 1 / Gamma(1 - m)
    sigma = -_log_half(x)
    a = sigma * m
    power = a.exp()
    nested = torch.ones_like(a)
    for k in range(9, 0, -1):  # sinh(a) / a near 0
        nested = nested * (a * a / (2 * k * (2 * k + 1))) + 1
    sinhc = torch.where(a.abs() > 1, 0.5 * (power - 1 / power) / torch.where(a == 0, 1.0, a), nested)
    term = (even * sigma * sinhc - odd * 0.5 * (power + 1 / power)) / (plus * minus)
    p, q, c, y = 0.5 * power / plus, 0.5 / (power * minus), torch.ones_like(x), 0.25 * x * x
    low, high = term, p
    for k in range(1, 17):
        term = (k * term + p + q) / (k * k - m * m)
        p, q, c = p / (k - m), q / (k + m), c * y / k
        low, high = low + c * term, high + c * (p - k * term)
    for j in range(1, int(n.max()) + 1):  # K of order m + j is k_j (2 / x)^j; k_{j+1} = (m + j) k_j + y k_{j-1}
        on = n >= j
        low, high = torch.where(on, high, low), torch.where(on, (m + j) * high + y * low, high)
    return low.log() + n * sigma if wanted == "value" else (2 / x) * (high / low)


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


# ---- pairs of doubles: what their sum leaves over is about 1e-32 of it


class Two(NamedTuple):
    """high + low."""

    high: Tensor
    low: Tensor


def _sum(a: Tensor, b: Tensor) -> Two:
    """Knuth: the sum and its rounding error, exactly."""
    s = a + b
    t = s - a
    return Two(s, (a - (s - t)) + (b - t))


def _product(a: Tensor, b: Tensor) -> Two:
    """Dekker: the product and its rounding error, exactly, by halves of 26 bits."""
    p = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return Two(p, a2 * b2 - (((p - a1 * b1) - a2 * b1) - a1 * b2))


def _halves(a: Tensor) -> tuple[Tensor, Tensor]:
    scaled = a * (2.0**27 + 1)
    high = scaled - (scaled - a)
    return high, a - high


def _times(a: Tensor, two: Two) -> Two:
    p = _product(a, two.high)
    return Two(p.high, p.low + a * two.low)


@cache
def _cells(device: torch.device) -> Tensor:
    return torch.tensor(tables().log, dtype=torch.float64, device=device).view(3, CELLS)


def _logarithm(high: Tensor, low: Tensor, shift: Tensor) -> Two:
    """log(high + low) + shift log 2 of positive normal numbers.

    The mantissa times a short number near its reciprocal is 1 + r with small r; the logarithm of the short number comes
    from a table, that of 1 + r from its series, whose first two terms are taken in pairs.
    """
    mantissa, exponent = torch.frexp(high)
    mantissa, exponent = 2 * mantissa, exponent - 1
    cell = ((mantissa - 1) * CELLS).long()
    power = exponent + (cell == CELLS - 1) + shift
    inverse, table_high, table_low = _cells(high.device)[:, cell]
    m = _product(mantissa, inverse)
    r, tail = _sum(m.high - 1, m.low + torch.ldexp(low, -exponent) * inverse)
    q = torch.full_like(r, 1 / 17)
    for k in range(16, 2, -1):
        q = 1 / k - r * q
    square = _product(r, r)
    a = _sum(r, -0.5 * square.high)
    rest = a.low - 0.5 * square.low - r * tail + tail + r * r * r * q
    b = _sum(power * LN2_HIGH, table_high)
    c = _sum(b.high, a.high)
    return _sum(c.high, rest + c.low + b.low + power * LN2_LOW + table_low)
