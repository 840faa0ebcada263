"""Warm-up, stable phase and each decay by hand."""

from __future__ import annotations

import math

import pytest

from pomona.ground.errors import ConfigError
from pomona.schedules import WarmupStableDecayConfig
from pomona.schedules.warmup_stable_decay import DecayShape


@pytest.mark.parametrize(
    ("shape", "minimum", "quarter"),
    [
        ("linear", 0.0, 0.75),
        ("1-sqrt", 0.0, 0.5),
        ("cosine", 0.0, 0.5 + 0.5 * math.cos(math.pi / 4)),
        ("linear", 0.2, 0.8),
        ("exponential", 0.1, 0.1**0.25),
    ],
)
def test_by_hand(shape: DecayShape, minimum: float, quarter: float) -> None:
    """Catches a wrong shape, a floor that is added rather than reached, and a decay that starts a step off."""
    schedule = WarmupStableDecayConfig(warmup=2, decay=8, shape=shape, min_ratio=minimum).build(20)
    assert [schedule(s) for s in range(2)] == [0.5, 1.0]
    assert {schedule(s) for s in range(2, 13)} == {1.0}
    assert schedule(14) == pytest.approx(quarter)
    assert schedule(20) == schedule(25) == pytest.approx(minimum)
    assert schedule(19) > minimum  # the last step of the run still learns


def test_length_does_not_show_before_the_decay() -> None:
    """Catches a stable phase that depends on the length: a run could not be prolonged then."""
    short, long = (WarmupStableDecayConfig(warmup=5, decay=10).build(total) for total in (40, 400))
    assert [short(s) for s in range(30)] == [long(s) for s in range(30)]


def test_no_decay_keeps_the_peak() -> None:
    """Catches a division by zero."""
    schedule = WarmupStableDecayConfig(warmup=0, decay=0).build(3)
    assert [schedule(s) for s in range(5)] == [1.0] * 5


def test_refusals() -> None:
    """Catches an exponential that would have to reach 0, and phases longer than the run."""
    with pytest.raises(ConfigError, match="never reaches 0"):
        WarmupStableDecayConfig.parse({"shape": "exponential"})
    with pytest.raises(ConfigError, match="warmup 6 \\+ decay 6"):
        WarmupStableDecayConfig(warmup=6, decay=6).build(10)
