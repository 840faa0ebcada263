"""Von Mises-Fisher distributions: the density is one, samples give their parameters back, at any dimension."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pomona.ground.errors import ConfigError, DataError
from pomona.numerics import LogBesselConfig, VonMisesFisher, fit_classes, iv_gap, iv_ratio, kappa_of, log_normalizer


def unit(p: int, axis: int = 0) -> Tensor:
    mean = torch.zeros(p, dtype=torch.float64)
    mean[axis] = 1.0
    return mean


@pytest.mark.parametrize("kappa", [0.0, 0.3, 5.0, 300.0])
def test_the_density_integrates_to_one(kappa: float) -> None:
    """Catches a wrong normalizer, on the circle and on the sphere in three dimensions."""
    angles = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)
    log_c2 = log_normalizer(torch.tensor(kappa).double(), 2)
    circle = torch.trapezoid((kappa * angles.cos() + log_c2).exp(), angles)
    heights = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    log_c3 = log_normalizer(torch.tensor(kappa).double(), 3)
    sphere = 2 * math.pi * torch.trapezoid((kappa * heights + log_c3).exp(), heights)
    torch.testing.assert_close(torch.stack([circle, sphere]), torch.ones(2).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("p", [2, 3, 384, 32_768])
def test_kappa_inverts_the_mean_length(p: int) -> None:
    """Catches a Newton step that diverges or stops early, from nearly uniform to nearly one point."""
    kappa = torch.logspace(-3, 8, 45, dtype=torch.float64)
    torch.testing.assert_close(kappa_of(iv_gap(p / 2 - 1, kappa), p), kappa, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("p", "kappa"), [(3, 2.0), (50, 100.0), (8192, 3000.0)])
def test_samples_give_their_parameters_back(p: int, kappa: float) -> None:
    """Catches samples of another distribution, and a fit that overflows in many dimensions."""
    truth = VonMisesFisher(unit(p, 1), torch.tensor(kappa).double())
    rows = truth.sample(4000 if p < 1000 else 200, torch.Generator().manual_seed(0))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)).double())
    expected = iv_ratio(p / 2 - 1, truth.kappa)
    assert abs(float((rows @ truth.mean).mean() - expected)) < 0.02
    found = VonMisesFisher.fit(rows)
    assert abs(float(found.kappa) / kappa - 1) < 0.05
    assert float(found.mean @ truth.mean) > 0.7


def test_a_fit_is_the_most_likely() -> None:
    """Catches a fit of another quantity: a change of kappa or of the mean lowers the likelihood."""
    rows = VonMisesFisher(unit(5), torch.tensor(7.0).double()).sample(300, torch.Generator().manual_seed(1))
    best = VonMisesFisher.fit(3 * rows)  # lengths do not count
    turned = best.mean + 0.05 * unit(5, 2)
    for other in (
        VonMisesFisher(best.mean, best.kappa * 1.02),
        VonMisesFisher(best.mean, best.kappa / 1.02),
        VonMisesFisher(turned / turned.norm(), best.kappa),
    ):
        assert best.log_prob(rows).mean() > other.log_prob(rows).mean()
    twice = VonMisesFisher.fit(torch.cat([rows, rows[:50]]))
    weighted = VonMisesFisher.fit(rows, torch.cat([torch.full((50,), 2.0), torch.ones(250)]))
    torch.testing.assert_close(twice.kappa, weighted.kappa)


def mixed(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three groups in 20 dimensions, and which row belongs to which."""
    draw = torch.Generator().manual_seed(seed)
    groups = [VonMisesFisher(unit(20, axis), torch.tensor(k).double()) for axis, k in enumerate((30.0, 60.0, 120.0))]
    return torch.cat([group.sample(150, draw) for group in groups]), torch.arange(3).repeat_interleave(150)


def test_mixtures() -> None:
    """Catches a likelihood that falls (EM never lowers it), groups that are not found, and chance without a seed."""
    rows, labels = mixed()
    found = LogBesselConfig(components=3, seed=1).fit(rows)
    gains = torch.tensor(found.likelihoods).diff()
    assert len(found.likelihoods) > 2 and bool((gains > -1e-12).all())
    assigned = found.predict(rows)
    purity = sum(int(torch.bincount(assigned[labels == label], minlength=3).max()) for label in range(3)) / len(rows)
    assert purity > 0.98 and abs(float(found.weights.sum()) - 1) < 1e-12
    torch.testing.assert_close(found.kappas.sort().values, torch.tensor([30.0, 60.0, 120.0]).double(), rtol=0.2, atol=0)
    again = LogBesselConfig(components=3, seed=1).fit(rows)
    assert torch.equal(again.means, found.means)
    one, plain = LogBesselConfig().fit(rows), VonMisesFisher.fit(rows)
    torch.testing.assert_close(one.kappas[0], plain.kappa)
    torch.testing.assert_close(one.log_prob(rows), plain.log_prob(rows))


def test_classes() -> None:
    """Catches a classifier that ignores concentrations, and a score that does not see what is foreign."""
    rows, labels = mixed()
    fresh, truth = mixed(seed=1)
    found = fit_classes(rows, labels)
    assert float((found.predict(fresh) == truth).double().mean()) > 0.97
    foreign = VonMisesFisher(unit(20, 9), torch.tensor(60.0).double()).sample(50, torch.Generator().manual_seed(2))
    assert found.log_prob(foreign).max() < found.log_prob(fresh).quantile(0.05)


def test_refusals() -> None:
    """Catches nan in place of a word: rows without direction, more groups than rows."""
    with pytest.raises(DataError, match="row 1"):
        VonMisesFisher.fit(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ConfigError, match="fewer components"):
        LogBesselConfig(components=3).fit(torch.eye(2))


def test_equal_directions() -> None:
    """Catches a division by 0: vectors that are all alike have the largest kappa."""
    found = VonMisesFisher.fit(torch.ones(4, 3))
    assert math.isfinite(float(found.kappa)) and float(found.kappa) > 1e10
