"""Von Mises-Fisher distributions on the unit sphere: density, samples, fits, mixtures, a classifier.

A direction x on the sphere in p dimensions has the density C_p(kappa) exp(kappa mean . x) with

    log C_p(kappa) = v log kappa - (v + 1) log(2 pi) - log I_v(kappa),   v = p/2 - 1,

and the mean of a sample has the expected length A_p(kappa) = I_{p/2}(kappa) / I_{p/2-1}(kappa). All of it is computed
from logarithms and ratios, so that tens of thousands of dimensions are as good as three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pomona.ground.errors import ConfigError, DataError
from pomona.numerics.log_bessel import iv_gap, iv_ratio_slope, log_iv

LARGEST_KAPPA = 1e15
"""Beyond it directions are equal to the last bit."""


def log_normalizer(kappa: Tensor, dimensions: int) -> Tensor:
    """log C_p(kappa), differentiable; at kappa = 0 minus the logarithm of the sphere's area.

    Args:
        kappa: concentration >= 0.
        dimensions: p >= 2, of the space that the sphere lies in.
    """
    v = dimensions / 2 - 1
    even = math.lgamma(v + 1) - math.log(2.0) - (v + 1) * math.log(math.pi)
    safe = torch.where(kappa > 0, kappa, 1.0)
    value = v * safe.log() - (v + 1) * math.log(2 * math.pi) - log_iv(v, safe)
    return torch.where(kappa > 0, value, even)


def kappa_of(short: Tensor, dimensions: int, steps: int = 20) -> Tensor:
    """The kappa at which A_p(kappa) = 1 - `short`: Newton from Banerjee's estimate R (p - R^2) / (1 - R^2).

    Args:
        short: 1 - R, what the mean of unit vectors lacks to length 1, in [0, 1]; given so because it may be tiny.
    Returns:
        float64, in [0, `LARGEST_KAPPA`].
    """
    v, short = torch.as_tensor(dimensions / 2 - 1, dtype=torch.float64), short.double()
    length = (1 - short).clamp(min=0)
    first = length * (dimensions - length**2) / (short * (1 + length)).clamp(min=1e-300)
    kappa = first.clamp(max=LARGEST_KAPPA)
    for _ in range(steps):
        # Steps of log kappa: they cannot leave the range, and large kappas, where A' ~ kappa^-2, converge as fast.
        excess = short - iv_gap(v, kappa)  # A - R
        slope = (iv_ratio_slope(v.expand_as(kappa), kappa) * kappa).clamp(min=1e-300)
        step = (-excess / slope).clamp(-2, 2)
        kappa = torch.where(kappa > 0, kappa * step.exp(), kappa).clamp(max=LARGEST_KAPPA)
        if bool((step.abs() < 1e-14).all()):
            break
    return torch.where(length > 0, kappa, 0.0)


@dataclass(frozen=True, eq=False)
class VonMisesFisher:
    """One distribution.

    Attributes:
        mean: (p,) unit vector, float64. kappa: concentration >= 0; 0 is the uniform distribution.
    """

    mean: Tensor
    kappa: Tensor

    @property
    def dimensions(self) -> int:
        return self.mean.shape[0]

    @classmethod
    def fit(cls, features: Tensor, weights: Tensor | None = None) -> VonMisesFisher:
        """By maximum likelihood.

        Args:
            features: (rows, p), not all equal and none of them 0; only their directions count.
            weights: (rows,) >= 0 of each row.
        """
        rows = directions(features)
        mean, short = _mean(rows, rows.new_ones(len(rows)) if weights is None else weights.double())
        return cls(mean, kappa_of(short, rows.shape[1]))

    def log_prob(self, features: Tensor) -> Tensor:
        """(rows,) log density of directions, float64, with respect to the area of the sphere."""
        return self.kappa * (directions(features) @ self.mean) + log_normalizer(self.kappa, self.dimensions)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, p) unit vectors, by Wood's rejection method (1994)."""
        p, kappa = self.dimensions, float(self.kappa)
        b = (p - 1) / (2 * kappa + math.sqrt(4 * kappa**2 + (p - 1) ** 2))
        start = (1 - b) / (1 + b)
        c = kappa * start + (p - 1) * math.log1p(-(start**2)) if kappa else 0.0
        cosines = torch.empty(0, dtype=torch.float64)
        while len(cosines) < count:
            # One coordinate of a uniform direction is 2 Beta((p - 1)/2, (p - 1)/2) - 1.
            even = torch.randn(count, p, generator=generator, dtype=torch.float64)
            z = (1 + even[:, 0] / even.norm(dim=1)) / 2
            w = (1 - (1 + b) * z) / (1 - (1 - b) * z)
            height = torch.rand(count, generator=generator, dtype=torch.float64).log()
            kept = kappa * w + (p - 1) * torch.log1p(-start * w) - c >= height
            cosines = torch.cat([cosines, w[kept]])
        cosines = cosines[:count, None]
        side = torch.randn(count, p, generator=generator, dtype=torch.float64)
        side = side - (side @ self.mean)[:, None] * self.mean
        side = side / side.norm(dim=1, keepdim=True)
        drawn: Tensor = cosines * self.mean + (1 - cosines**2).clamp(min=0).sqrt() * side
        return drawn


@dataclass(frozen=True, eq=False)
class Mixture:
    """Several distributions.

    Attributes:
        weights: (components,), sum 1. means: (components, p) unit vectors. kappas: (components,). All float64.
        likelihoods: mean log-likelihood per vector, in nats, after each step of the fit.
    """

    weights: Tensor
    means: Tensor
    kappas: Tensor
    likelihoods: tuple[float, ...] = ()

    def joint(self, features: Tensor) -> Tensor:
        """(rows, components) log of weight times density."""
        rows = directions(features)
        constants = log_normalizer(self.kappas, self.means.shape[1]) + self.weights.log()
        return (rows @ self.means.T) * self.kappas + constants

    def log_prob(self, features: Tensor) -> Tensor:
        """(rows,) log density: the lower, the further from all that was fitted."""
        return self.joint(features).logsumexp(1)

    def predict(self, features: Tensor) -> Tensor:
        """(rows,) the component that is most probable."""
        return self.joint(features).argmax(1)


def fit_mixture(
    features: Tensor, components: int, *, steps: int, tolerance: float, generator: torch.Generator
) -> Mixture:
    """Expectation maximization, from means that are far apart (k-means++ on the sphere).

    Args:
        features: (rows, p); only their directions count.
        components: at most as many as rows.
        steps: most steps. tolerance: least gain of the mean log-likelihood, in nats, to go on.
        generator: of the first means.
    Raises:
        ConfigError: more components than rows. DataError: a row is 0 or not finite.
    """
    rows = directions(features)
    if components > len(rows):
        raise ConfigError(
            f"{components} distributions cannot be fitted to {len(rows)} vectors",
            needs="at least one vector for each",
            do="choose fewer components",
        )
    chosen = rows[_far_apart(rows, components, generator)]
    shares = torch.nn.functional.one_hot((rows @ chosen.T).argmax(1), components).double()
    likelihoods: list[float] = []
    while True:
        mixture = _maximized(rows, shares, tuple(likelihoods))
        joint = mixture.joint(rows)
        total = joint.logsumexp(1, keepdim=True)
        likelihoods.append(float(total.mean()))
        gained = len(likelihoods) < 2 or likelihoods[-1] - likelihoods[-2] > tolerance
        if components == 1 or len(likelihoods) >= steps or not gained:
            return Mixture(mixture.weights, mixture.means, mixture.kappas, tuple(likelihoods))
        shares = (joint - total).exp()


def fit_classes(features: Tensor, labels: Tensor) -> Mixture:
    """One distribution for each class 0, 1, ... of (rows,) labels: a classifier (`predict`) whose `log_prob` is low
    for what belongs to none."""
    return _maximized(directions(features), torch.nn.functional.one_hot(labels).double(), ())


def directions(features: Tensor) -> Tensor:
    """Rows at length 1, float64. Raises `DataError` for rows without direction."""
    rows = features.double()
    lengths = rows.norm(dim=1, keepdim=True)
    bad = ~(lengths.isfinite() & (lengths > 0))
    if bool(bad.any()):
        raise DataError(
            f"row {int(bad.nonzero()[0, 0])} of the features has no direction",
            needs="finite features that are not all 0",
            found=f"a vector of length {float(lengths[bad][0])}",
            do="leave such rows out",
        )
    unit: Tensor = rows / lengths
    return unit


def _maximized(rows: Tensor, shares: Tensor, likelihoods: tuple[float, ...]) -> Mixture:
    """The mixture that is most likely when (rows, components) says how much of each row belongs to each."""
    means, shorts = zip(*(_mean(rows, share) for share in shares.T), strict=True)
    kappas = kappa_of(torch.stack(shorts), rows.shape[1])
    return Mixture(shares.mean(0), torch.stack(means), kappas, likelihoods)


def _mean(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The direction of the weighted mean, and what the mean lacks to length 1: half the mean squared distance of the
    rows from the direction, which does not cancel."""
    total = weights @ rows
    mean = total / total.norm().clamp(min=1e-300)
    distance = (rows - mean).square().sum(1) / 2
    return mean, (weights @ distance / weights.sum().clamp(min=1e-300)).clamp(max=1.0)


def _far_apart(rows: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Rows of which each is drawn with a probability that grows with its distance from those before."""
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    distance = 1 - rows @ rows[chosen[0]]
    while len(chosen) < count:
        odds = distance.clamp(min=0) + 1e-12
        chosen.append(int(torch.multinomial(odds, 1, generator=generator)))
        distance = torch.minimum(distance, 1 - rows @ rows[chosen[-1]])
    return chosen
