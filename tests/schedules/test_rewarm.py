"""Re-warming by hand, what it takes from the run before, and the spike it causes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pomona.engine.protocols import ContinuingMethod, OpenSchedule
from pomona.ground.errors import ConfigError
from pomona.schedules import RewarmConfig
from pomona.schedules.rewarm import Spike, spike_of


def parse(**values: Any) -> RewarmConfig:
    return RewarmConfig.parse(values)


def test_by_hand() -> None:
    """Catches an off-by-one in either phase, and a floor that is no share of the peak."""
    schedule = parse(peak=2.0, warmup=4, min_ratio=0.25).build(12)
    assert [schedule(step) for step in range(5)] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert schedule(8) == pytest.approx(1.25)  # the middle of 2 and 0.5
    assert schedule(12) == schedule(99) == pytest.approx(0.5)


def test_it_starts_where_the_run_before_ended() -> None:
    """Catches a jump at the seam, and a last rate that is one step early or late."""
    first = parse(warmup=0.1).build(50)
    line = first.continued(first.leaves_after(50)).state_dict()
    assert line["last"] == first(49) and first(48) > first(49) > first(50)
    again = parse(start="last", warmup=10, peak=1.5).continued(line, 40)
    assert again(0) == first(49) and again(5) == pytest.approx((first(49) + 1.5) / 2) and again(10) == 1.5
    assert parse(warmup=10).continued(line, 40)(0) == 0.0


def test_without_a_peak_the_last_rate_is_kept() -> None:
    """Catches a constant that is another than the rate of the last step, now or in the run after."""
    first = parse().build(50)
    line = first.continued(50).state_dict()
    kept = parse(peak=0).continued(line, 30)
    assert {kept(step) for step in range(40)} == {first(49)}
    assert kept.continued(30).state_dict() == line


def test_special_cases() -> None:
    """Catches a division by zero without a warm-up, and a constant that falls."""
    assert parse(warmup=0).build(5)(0) == 1.0
    flat = parse(warmup=0, min_ratio=1.0).build(10)
    assert {flat(step) for step in range(15)} == {1.0}


def test_protocols() -> None:
    """Catches a schedule whose state the stage would not keep."""
    assert isinstance(parse(), ContinuingMethod) and isinstance(parse().build(5), OpenSchedule)
    assert parse().resumes_state and not parse(moments="new").resumes_state


@pytest.mark.parametrize("values", [{"peak": 0}, {"start": "last"}])
def test_a_last_rate_that_nobody_knows(values: dict[str, Any]) -> None:
    """Catches a run at rate 0."""
    with pytest.raises(ConfigError, match="train the first run with `schedule: rewarm` too"):
        parse(**values).build(10)


def test_refusals() -> None:
    """Catches a warm-up to nowhere being passed over in silence."""
    with pytest.raises(ConfigError, match="nothing to warm up to"):
        parse(peak=0, warmup=3)
    with pytest.raises(ConfigError):
        parse(peak=-1)


def test_spikes_by_hand() -> None:
    """Catches a height that is not from the beginning, and a return that is measured before the peak."""
    assert spike_of([(0, 3.0), (10, 2.9), (20, 3.6), (30, 3.2), (40, 2.8)]) == Spike(pytest.approx(0.6), 20, 35.0)
    assert spike_of([(0, 3.0), (10, 2.0)]) == Spike(0.0, 0, 0.0)
    assert spike_of([(0, 3.0), (10, 4.0), (20, 3.5)]) == Spike(1.0, 10, math.inf)
