"""Logarithms of modified Bessel functions that never overflow, and von Mises-Fisher fits to features.

Source: Plesner, Sørensen and Hauberg, "Accurate Computation of the Logarithm of Modified Bessel Functions on GPUs",
ICS 2024, arXiv:2409.08729.
Implements: log I_v(x) and log K_v(x) with every intermediate on the logarithmic scale, by branches of the input range:
    expansions of large order or argument, and a sum or an integral where both are small; their derivatives and ratios;
    von Mises-Fisher fits built on them (`von_mises_fisher`).
Deviations: one expansion in 1 / sqrt(v^2 + x^2) takes the place of the paper's two families (at v = 0 it is the large
    argument's, which therefore needs no branch of its own), and its large part is computed in pairs of doubles, because
    an error of one rounding in v asinh(v / x) is 1e-11 at v = 1e5. The small branch of K is Temme's series below x = 2
    and the trapezoidal rule above; the paper's integral loses digits below v = 1/2. `bessel_torch` has the formulas.
Use when: likelihoods on the sphere, Bessel kernels and distributions at thousands of dimensions. Cost: 8 to 12 ns per
    value on two cores through `bessel.cpp`; without a compiler the same formulas in torch, about twenty times as much.
Relations: where SciPy's log(ive) + x is finite the two agree; I_{p/2} / I_{p/2-1} is the mean resultant length of a von
    Mises-Fisher distribution on the sphere in p dimensions.
Limits: real v >= 0 and x >= 0, float64 inside; results return in the dtype of the inputs. Differentiable in x, any
    number of times; not in v.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from pomona.ground.config import MethodConfig
from pomona.numerics import bessel_native, bessel_torch
from pomona.numerics.bessel_torch import Wanted

if TYPE_CHECKING:
    from pomona.numerics.von_mises_fisher import Mixture


class LogBesselConfig(MethodConfig):
    """Fit von Mises-Fisher distributions to the directions of features."""

    method: Literal["log-bessel"] = "log-bessel"
    components: PositiveInt = 1
    """Distributions in the mixture; 1 is fitted in closed form but for kappa."""
    steps: PositiveInt = 200
    """Most steps of expectation maximization; it ends when the likelihood stands still."""
    tolerance: float = 1e-7
    """Gain of the mean log-likelihood per vector, in nats, below which it stands still."""
    seed: NonNegativeInt = 0
    """Of the first means."""

    def fit(self, features: Tensor) -> Mixture:
        """Fit to (rows, dimensions) features, of which only the directions count; see `fit_mixture`."""
        from pomona.numerics.von_mises_fisher import fit_mixture

        draw = torch.Generator().manual_seed(self.seed)
        return fit_mixture(features, self.components, steps=self.steps, tolerance=self.tolerance, generator=draw)


def log_iv(v: Tensor | float, x: Tensor) -> Tensor:
    """log I_v(x), the logarithm of the modified Bessel function of the first kind.

    Args:
        v: order >= 0, broadcast with x; no gradient flows into it.
        x: argument >= 0, any float dtype.
    Returns:
        In the dtype of x. Error at most 1e-13 of max(1, |result|) in float64. -inf at x = 0 < v, 0 at x = v = 0, nan
        where v or x is negative.
    Example:
        >>> float(log_iv(0.5, torch.tensor(1.0, dtype=torch.float64)).exp())  # sqrt(2 / pi) sinh(1)
        0.9376748882454876
    """
    return _apply(v, x, first=True, wanted="value")


def log_kv(v: Tensor | float, x: Tensor) -> Tensor:
    """log K_v(x), of the modified Bessel function of the second kind; even in v, inf at x = 0. See `log_iv`."""
    return _apply(v, x, first=False, wanted="value")


def iv_ratio(v: Tensor | float, x: Tensor) -> Tensor:
    """I_{v+1}(x) / I_v(x), in [0, 1), to about 1e-15 of itself. Differentiable in x."""
    return _apply(v, x, first=True, wanted="ratio")


def kv_ratio(v: Tensor | float, x: Tensor) -> Tensor:
    """K_{v+1}(x) / K_v(x), above 1, to about 1e-14 of itself. Differentiable in x."""
    return _apply(v, x, first=False, wanted="ratio")


def iv_gap(v: Tensor | float, x: Tensor) -> Tensor:
    """1 - I_{v+1}(x) / I_v(x), to about 1e-13 of itself also where it is tiny. Differentiable in x."""
    return _apply(v, x, first=True, wanted="gap")


def _apply(v: Tensor | float, x: Tensor, *, first: bool, wanted: Wanted) -> Tensor:
    order = torch.as_tensor(v, dtype=torch.float64, device=x.device).detach()
    pair = order if first else order.abs(), x.to(torch.float64)
    made: Tensor = _Bessel.apply(*torch.broadcast_tensors(*pair), first, wanted)  # type: ignore[no-untyped-call]
    return made.to(x.dtype)


def evaluate(v: Tensor, x: Tensor, *, first: bool, wanted: Wanted) -> Tensor:
    """By the compiled functions where they can be used, else in torch."""
    if x.device.type == "cpu" and bessel_native.available():
        return bessel_native.bessel(v.contiguous(), x.contiguous(), first=first, wanted=wanted)
    return bessel_torch.bessel(v, x, first=first, wanted=wanted)


class _Bessel(torch.autograd.Function):
    """What `evaluate` gives, with its derivative in x."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, x: Tensor, first: bool, wanted: Wanted) -> Tensor:
        ctx.save_for_backward(v, x)
        ctx.which = first, wanted
        return evaluate(v, x, first=first, wanted=wanted)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        return None, grad * slope(*ctx.saved_tensors, *ctx.which), None, None


def slope(v: Tensor, x: Tensor, first: bool, wanted: Wanted) -> Tensor:
    """d/dx of what `evaluate` gives, itself differentiable: (log I_v)' = v / x + A and (log K_v)' = v / x - B for the
    ratios A = I_{v+1} / I_v and B = K_{v+1} / K_v; A' = 1 - A^2 - (2v + 1) A / x; B' = B^2 - 1 - (2v + 1) B / x (DLMF
    10.38)."""
    if wanted == "value":  # for v = 0 the second is minus a ratio near 1, and never cancels to 0
        over = torch.where(v == 0, torch.zeros_like(x), v / x)
        return over + iv_ratio(v, x) if first else over - kv_ratio(v, x)
    if first:
        return iv_ratio_slope(v, x) if wanted == "ratio" else -iv_ratio_slope(v, x)
    ratio = kv_ratio(v, x)
    return ratio * ratio - 1 - (2 * v + 1) * ratio / x


def iv_ratio_slope(v: Tensor, x: Tensor) -> Tensor:
    """d/dx of A = I_{v+1} / I_v, with 1 - A^2 from the gap 1 - A; 1 / (2v + 2) at x = 0."""
    ratio, gap = iv_ratio(v, x), iv_gap(v, x)
    slope = gap * (2 - gap) - (2 * v + 1) * ratio / torch.where(x > 0, x, 1.0)
    return torch.where(x > 0, slope, 1 / (2 * v + 2))
