"""log I_v(x) and log K_v(x) to forty digits, slowly: the measure of the fast ones.

The power series and the integral, summed by mpmath (which torch brings). Sensible up to orders and arguments of 1e4.
"""

from __future__ import annotations

import mpmath as mp

DIGITS = 45


def log_i(v: float, x: float) -> float:
    """By the power series, whose terms are all positive."""
    with mp.workdps(DIGITS):
        v, x = mp.mpf(v), mp.mpf(x)
        y, term, total, k = x * x / 4, mp.mpf(1), mp.mpf(1), 0
        while term > total * mp.mpf(10) ** -DIGITS:
            k += 1
            term *= y / (k * (k + v))
            total += term
        return float(v * mp.log(x / 2) - mp.loggamma(v + 1) + mp.log(total))


def log_k(v: float, x: float) -> float:
    """By the trapezoidal rule for the integral of exp(-x cosh t + v t) over the whole line, halved."""
    with mp.workdps(DIGITS):
        v, x = mp.mpf(v), mp.mpf(x)
        step = min(mp.mpf("0.08"), 1 / (3 * mp.sqrt(mp.hypot(v, x))))
        first = int(mp.asinh(v / x) / step)
        top = -x * mp.cosh(first * step) + v * first * step
        total = mp.mpf(0)
        for way in (1, -1):
            j = first if way > 0 else first - 1
            while (power := -x * mp.cosh(j * step) + v * j * step - top) > -95:
                total += mp.exp(power)
                j += way
        return float(top + mp.log(total * step / 2))
