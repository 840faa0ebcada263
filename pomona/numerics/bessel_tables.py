"""Numbers that the logarithms of Bessel functions are computed with, exact before their last rounding."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from math import sinh

TERMS, FEW = 20, 9
"""Terms of the expansions where v^2 + x^2 is above `NEAR` ** 2, and above `FAR` ** 2."""
NEAR, FAR, MIDDLE = 20.0, 100.0, 2.0
"""Borders of the branches in sqrt(v^2 + x^2), and in x below `NEAR`."""
STEP, NODES = 0.125, 37
"""Of the trapezoidal rule: what lies beyond t = 4.5 is below 1e-17 of the whole for x >= 2 and v <= 20."""
CELLS = 16
"""Cells that a mantissa in [1, 2) may lie in."""

RECIPROCAL_GAMMA = (
    *(1.0, 0.5772156649015328606, -0.6558780715202538811, -0.0420026350340952355, 0.1665386113822914895),
    *(-0.0421977345555443367, -0.0096219715278769736, 0.0072189432466630995, -0.0011651675918590651),
    *(-0.000215241674114950973, 0.000128050282388116186, -2.01348547807882387e-05, -1.25049348214267066e-06),
    *(1.13302723198169588e-06, -2.05633841697760710e-07, 6.11609510448141582e-09, 5.00200764446922293e-09),
    *(-1.18127457048702014e-09, 1.04342671169110051e-10, 7.78226343990507125e-12, -3.69680561864220571e-12),
    *(5.10037028745447598e-13, -2.05832605356650678e-14, -5.34812253942301798e-15),
)
"""Taylor's coefficients of 1 / Gamma(1 + m) (Abramowitz and Stegun, 6.1.34); for |m| <= 1/2 the rest is below 1e-22."""


@dataclass(frozen=True)
class Tables:
    """Flat tables of doubles.

    Attributes:
        debye: u_k(t) / v^k = s^-k p_k(t^2) with s = sqrt(v^2 + x^2), t = v / s: the k + 1 coefficients of p_k,
            constant first, for k = 1 .. `TERMS`.
        slope: w_k = (1/2 + k) p_k + 2 q p_k'(q) of q = t^2, for k = 0 .. `TERMS` - 1, which ratios are made of.
        log: for each of `CELLS` cells of mantissas a short number near their reciprocal, then minus its logarithm as
            a high and a low part. The last cell counts to the next power of two.
        even, odd: coefficients of 1 / Gamma(1 + m) in m^2: even(m^2) + m odd(m^2).
        cosh: cosh(j `STEP`) - 1.
    """

    debye: tuple[float, ...]
    slope: tuple[float, ...]
    log: tuple[float, ...]
    even: tuple[float, ...]
    odd: tuple[float, ...]
    cosh: tuple[float, ...]


@cache
def tables() -> Tables:
    """All of them, made once."""
    polynomials = debye_polynomials(TERMS)
    slopes = [
        [coefficient * (Fraction(1, 2) + k + 2 * power) for power, coefficient in enumerate(polynomial)]
        for k, polynomial in enumerate(polynomials[:TERMS])
    ]
    return Tables(
        debye=tuple(float(c) for polynomial in polynomials[1:] for c in polynomial),
        slope=tuple(float(c) for polynomial in slopes for c in polynomial),
        log=log_cells(),
        even=RECIPROCAL_GAMMA[::2],
        odd=RECIPROCAL_GAMMA[1::2],
        cosh=tuple(2 * sinh(j * STEP / 2) ** 2 for j in range(NODES)),
    )


def debye_polynomials(terms: int) -> list[list[Fraction]]:
    """p_0 .. p_terms, from u_{k+1} = t^2 (1 - t^2) u_k' / 2 + (1/8) int_0^t (1 - 5 r^2) u_k dr (DLMF 10.41.9).

    With u_k = t^k p_k(t^2) a term c t^n of u_k gives c (n/2 + 1/(8 (n + 1))) t^(n+1) and
    -c (n/2 + 5/(8 (n + 3))) t^(n+3).
    """
    found = [[Fraction(1)]]
    for k in range(terms):
        following = [Fraction(0)] * (k + 2)
        for m, c in enumerate(found[-1]):
            n = k + 2 * m
            following[m] += c * (Fraction(n, 2) + Fraction(1, 8 * (n + 1)))
            following[m + 1] -= c * (Fraction(n, 2) + Fraction(5, 8 * (n + 3)))
        found.append(following)
    return found


def log_cells() -> tuple[float, ...]:
    """Reciprocals of at most eight bits, so that products with them are exact in two numbers, and logarithms."""
    inner = (round(256 / (1 + (cell + 0.5) / CELLS)) / 256 for cell in range(1, CELLS - 1))
    inverses = [1.0, *inner, 0.5]
    highs, lows = [], []
    with localcontext() as context:
        context.prec = 50
        for inverse in [*inverses[:-1], 1.0]:
            exact = -Decimal(inverse).ln()
            highs.append(float(exact))
            lows.append(float(exact - Decimal(highs[-1])))
    return (*inverses, *highs, *lows)
