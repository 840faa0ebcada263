"""Essential sparsity: found where it was put, on curves and in a model, which stays as it was until it is pruned."""

from __future__ import annotations

import json

import pytest
import torch

from pomona.anatomy import Anatomy
from pomona.ground.errors import ConfigError
from pomona.sparsity import (
    EssentialSparsityConfig,
    MagnitudeConfig,
    NMSparsityConfig,
    essential_sparsity_,
    scan_sparsity,
    sparsity_curve,
)
from pomona.sparsity.knee import Knee, Measured, find_knee, largest_within
from pomona.sparsity.weight_scores import prunable
from tests.sparsity.models import Distance, Squares, batches_of, state_of, telling, unchanged


def bent(at: float, before: float, after: float, count: int = 10) -> list[Measured]:
    points = [place / count for place in range(count)]
    return [Measured(s, 2 + before * s + (after - before) * max(0.0, s - at)) for s in points]


@pytest.mark.parametrize("at", [0.2, 0.45, 0.7])
def test_the_knee_is_found(at: float) -> None:
    """Catches a fit that finds another bend than the one of two exact lines, or slopes on the wrong side."""
    knee = find_knee(bent(at, 0.1, 2.0))
    assert knee is not None and abs(knee.at - at) < 1e-6
    assert knee.slope_before == pytest.approx(0.1) and knee.slope_after == pytest.approx(2.0)
    assert knee.sharpness == pytest.approx(20.0) and knee.sharp


def test_the_knee_is_found_under_noise() -> None:
    """Catches a fit that follows the noise: the bend is found within one step of the grid."""
    generator = torch.Generator().manual_seed(0)
    for at in (0.3, 0.5, 0.6):
        noise = 0.02 * torch.randn(10, generator=generator)
        noisy = [Measured(p.sparsity, p.loss + float(n)) for p, n in zip(bent(at, 0.1, 2.0), noise, strict=True)]
        knee = find_knee(noisy)
        assert knee is not None and abs(knee.at - at) <= 0.1 and knee.sharp and knee.gain > 0.9


def test_curves_without_a_knee() -> None:
    """Catches a knee that is announced on a straight line, on one that flattens, or on too few points."""
    straight, flattens, flat_first = (find_knee(bent(0.5, a, b)) for a, b in ((1.0, 1.0), (2.0, 0.1), (0.0, 1.0)))
    assert straight is not None and not straight.sharp
    assert flattens is not None and not flattens.sharp
    assert flat_first is not None and flat_first.sharp
    assert find_knee(bent(0.5, 0, 1)[:3]) is None
    assert Knee(at=0.5, slope_before=0.1, slope_after=2.0, gain=0.6).sharp
    assert not Knee(at=0.5, slope_before=0.1, slope_after=2.0, gain=0.2).sharp, "a line does nearly as well"


def test_the_largest_sparsity_within_a_tolerance() -> None:
    """Catches bisection on the wrong side, a curve that comes back further on, and measurements beyond the grid."""
    asked: list[float] = []

    def loss_at(sparsity: float) -> float:
        asked.append(sparsity)
        return 2.0 if sparsity < 0.437 or sparsity > 0.85 else 3.0

    found, curve = largest_within(loss_at, dense=2.0, tolerance=0.01, step=0.1, resolution=0.01)
    assert 0.437 - 0.01 <= found < 0.437
    assert asked[:9] == pytest.approx([0.1 * place for place in range(1, 10)])
    assert [point.sparsity for point in curve] == sorted([0.0, *asked])
    assert largest_within(lambda s: 2.0, dense=2.0, tolerance=0.01, step=0.25, resolution=0.01)[0] == 0.75
    assert largest_within(lambda s: 9.0, dense=2.0, tolerance=0.01, step=0.1, resolution=0.02)[0] == 0.0
    assert largest_within(lambda s: float("nan"), dense=2.0, tolerance=0.01, step=0.25, resolution=0.1)[0] == 0.0


def padded(share: float) -> Anatomy:
    """A model of which a share of the weights, chosen at random, are next to nothing."""
    body = telling("llama-grouped-untied")
    for weight, mask in zip(
        prunable(body), MagnitudeConfig(score="random", seed=9, sparsity=share).masks(prunable(body)), strict=True
    ):
        weight.write_(torch.where(mask, weight.read(), 1e-6 * weight.read()))
    return body


def test_it_is_found_in_a_model() -> None:
    """Catches a scan that prunes what is pruned already, leaves weights zeroed, or takes random for magnitude: of a
    model in which 60 % of the weights hardly count, 60 % can go, and none of them at random."""
    body = padded(0.6)
    before, batches = state_of(body), batches_of(body)
    scan = scan_sparsity(body, batches, Distance())
    assert unchanged(body, before)
    assert scan.dense == 1.0 and 0.6 <= scan.essential < 0.75
    flat = [point.loss for point in scan.curve if point.sparsity < 0.59]
    assert max(flat) < 1.0001 < 1.01 < min(point.loss for point in scan.random)
    assert scan.knee is not None and scan.knee.sharp and scan.knee.at > 0.5
    assert [point.sparsity for point in scan.random] == pytest.approx([0.1 * place for place in range(1, 10)])
    json.dumps(scan.to_dict(), allow_nan=False)
    assert "of the weights are not needed" in str(scan)
    report = essential_sparsity_(body, None, batches, Distance())
    assert report.study is not None and report.study["essential"] == scan.essential
    assert report.zeros == sum(weight.numel() for weight in prunable(body)) - round(
        (1 - scan.essential) * sum(weight.numel() for weight in prunable(body))
    )


def test_a_model_without_spare_weights_stays() -> None:
    """Catches a model that is pruned all the same, or that is left zeroed by the last measurement."""
    body = telling("gpt2")
    before = state_of(body)
    with pytest.raises(ConfigError, match="no weights that can be spared"):
        essential_sparsity_(body, EssentialSparsityConfig(tolerance=1e-6, resolution=0.1), batches_of(body), Distance())
    assert unchanged(body, before)


def test_curves_of_patterns() -> None:
    """Catches a curve whose points build on one another: the loss of each pattern is that of a fresh model."""
    methods = [
        MagnitudeConfig(sparsity=0.5),
        NMSparsityConfig(pattern="2:4"),
        NMSparsityConfig(pattern="4:8"),
        NMSparsityConfig(pattern="1:4"),
    ]
    body = telling("bert")
    before, batches = state_of(body), batches_of(body)
    losses = sparsity_curve(body, methods, batches, Squares())
    assert unchanged(body, before)
    assert len(set(losses)) == 4
    alone = [sparsity_curve(telling("bert"), [method], batches, Squares())[0] for method in methods]
    assert losses == alone
