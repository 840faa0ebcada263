"""The rules of the cards of run-time methods and numerics on tables made by hand, and what their measurements draw."""

from __future__ import annotations

import torch

from pomona.evidence.cards import zero_tprune
from pomona.evidence.cards.log_bessel import checked, points, scipy_logs
from pomona.numerics import log_iv, log_kv
from tests.evidence.test_verdicts import verdict


def each(**metrics: float) -> dict[str, tuple[float, float, float]]:
    """The same at three seeds."""
    return {name.replace("_", " "): (value,) * 3 for name, value in metrics.items()}


def test_log_bessel() -> None:
    """Catches errors in place of shares, and a success without a failure of SciPy."""
    ours = each(finite=1.0, error=1e-15, fits=3.0, nanoseconds=20.0)
    theirs = each(finite=0.4, error=1e-12, fits=1.0, nanoseconds=150.0)
    assert verdict("log-bessel", {"log-bessel": ours, "SciPy": theirs}).status == "reproduced"
    assert verdict("log-bessel", {"log-bessel": ours, "SciPy": {**theirs, **each(nanoseconds=9.0)}}).status == "partly"
    wrong = {**ours, **each(error=1e-6)}
    assert verdict("log-bessel", {"log-bessel": wrong, "SciPy": theirs}).status == "not reproduced"


def test_scbench() -> None:
    """Catches turns that changed places, and policies that stay taken for those that fall."""
    whole = each(first_turn=1.0, later_turns=1.0, requests=1.0, cache=4.0)
    falls = each(first_turn=0.9, later_turns=0.1, requests=0.1, cache=0.4)
    arms = {"dense": whole, "streaming": falls, "snapkv": falls, "quest": whole, "kivi": whole}
    assert verdict("scbench", arms).status == "reproduced"
    assert verdict("scbench", {**arms, "quest": falls}).status == "partly"
    assert verdict("scbench", {**arms, "snapkv": whole}).status == "not reproduced"


def test_minference() -> None:
    """Catches times and losses with a turned sign."""
    dense = each(retrieval=1.0, loss=3.0, time=1.0)
    static = each(retrieval=0.2, loss=3.1, time=0.1)
    searched = each(retrieval=0.99, loss=3.01, time=0.2)
    arms = {"dense": dense, "a_shape": static, "strided": static, "random columns": static}
    assert verdict("minference", {**arms, "searched": searched}).status == "reproduced"
    assert verdict("minference", {**arms, "searched": {**searched, **each(loss=3.5)}}).status == "partly"
    assert verdict("minference", {**arms, "searched": {**searched, **each(retrieval=0.1)}}).status == "not reproduced"


def test_zero_tprune() -> None:
    """Catches accuracies in place of losses."""
    plain = {"random": 9.0, "class attention": 3.0, "mean attention": 4.0, "merging": 2.5}
    lost = {"all tokens": 0.0, **plain, "without S": 2.0, "without I": 2.0, "Zero-TPrune": 1.0}

    def at(value: float) -> dict[str, tuple[float, float, float]]:
        return {"lost at 65%": (value - 0.5,) * 3, "lost at 50%": (value + 0.5,) * 3}

    arms = {name: at(value) for name, value in lost.items()}
    assert verdict("zero-tprune", arms).status == "reproduced"
    assert verdict("zero-tprune", {**arms, "Zero-TPrune": at(2.5)}).status == "partly"
    assert verdict("zero-tprune", {**arms, "Zero-TPrune": at(5.0)}).status == "not reproduced"


def test_pictures_show_their_digit() -> None:
    """Catches labels of other pictures, and seeds that draw the same."""
    images, labels = zero_tprune.pictures(20, 1)
    again, _ = zero_tprune.pictures(20, 1)
    other, _ = zero_tprune.pictures(20, 2)
    assert torch.equal(images, again) and not torch.equal(images, other)
    strokes = (images == 1.5).all(1).flatten(1).sum(1)
    pixels = torch.tensor([digit.count("1") for digit in zero_tprune.FONT])[labels]
    assert torch.equal(strokes, 4 * pixels)


def test_points_cover_the_range_and_errors_are_those_of_the_functions() -> None:
    """Catches a range in which nothing overflows, and an error that is measured against itself."""
    v, x = points(4000, 1e5, 1e6, torch.Generator().manual_seed(0))
    assert float(v.max()) > 9e4 and float(x.max()) > 5e5 and float(x.min()) < 2e-3
    share = torch.cat([function(v, x) for function in scipy_logs()]).isfinite().double().mean()
    assert 0.2 < float(share) < 0.8
    right = checked(log_iv, log_kv, torch.Generator().manual_seed(0))
    wrong = checked(lambda v, x: log_iv(v, x) + 1e-6, log_kv, torch.Generator().manual_seed(0))
    assert right < 1e-13 and 1e-9 < wrong < 2e-6
