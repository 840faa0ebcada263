"""Warm-up and cosine by hand."""

from __future__ import annotations

import pytest

from pomona.ground.errors import ConfigError
from pomona.schedules import WarmupCosineConfig, warmup_cosine


def test_by_hand() -> None:
    """Catches an off-by-one in either phase, and a cosine that starts or ends elsewhere."""
    schedule = WarmupCosineConfig(warmup=4, min_ratio=0.2).build(12)
    assert [schedule(s) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule(4) == 1.0
    assert schedule(8) == pytest.approx(0.6)  # half of the cosine: the middle of 1 and 0.2
    assert schedule(12) == schedule(99) == pytest.approx(0.2)


def test_quarter_of_the_cosine() -> None:
    """Catches a straight line in the cosine's place, which agrees with it at the ends and in the middle."""
    assert warmup_cosine(1, warmup=0, total=4, min_ratio=0.0) == pytest.approx(0.5 + 0.5 * 2**-0.5)


def test_no_warmup_starts_at_the_peak() -> None:
    """Catches a first step of rate 0 or a division by zero."""
    assert WarmupCosineConfig(warmup=0).build(5)(0) == 1.0


def test_constant() -> None:
    """Catches a floor that is not kept: min_ratio 1 without warm-up is a constant rate."""
    schedule = WarmupCosineConfig(warmup=0, min_ratio=1.0).build(9)
    assert {schedule(s) for s in range(12)} == {1.0}


def test_refusals() -> None:
    """Catches values out of range; unknown keys are named with the nearest."""
    with pytest.raises(ConfigError, match="did you mean 'warmup'"):
        WarmupCosineConfig.parse({"warm_up": 3})
    with pytest.raises(ConfigError, match="min_ratio"):
        WarmupCosineConfig.parse({"min_ratio": 1.5})
