"""Which steps are made, which are skipped, and when a run ends."""

from __future__ import annotations

import math

import pytest

from pomona.engine import GuardConfig
from pomona.engine.guards import Guards
from pomona.ground.errors import ConfigError, TrainingDiverged


def settled(**values: object) -> Guards:
    """Guards that have seen a loss of 2 often enough."""
    guards = Guards(GuardConfig.model_validate(values))
    assert all(guards.admits(step, 2.0, 1.0) is None for step in range(5))
    return guards


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf)])
def test_what_is_not_finite_is_skipped(loss: float, norm: float) -> None:
    """Catches a loss or a norm that is not looked at, and one that enters the recent mean."""
    guards = settled()
    assert guards.admits(6, loss, norm) is not None
    assert guards.recent == 2.0
    assert guards.admits(7, 2.0, 1.0) is None and guards.skipped_in_a_row == 0


def test_a_spike_is_judged_as_it_was_asked_for() -> None:
    """Catches a policy that is not followed, a factor that is ignored, and a spike that becomes the new normal."""
    assert settled().admits(6, 4.1, 1.0) is None, "a remark at most"
    skipping = settled(spike="skip")
    assert "more than 2.0 times the recent 2.000" in str(skipping.admits(6, 4.1, 1.0))
    assert skipping.recent == 2.0 and skipping.admits(7, 3.9, 1.0) is None
    assert settled(spike="skip", spike_factor=3.0).admits(6, 4.1, 1.0) is None
    with pytest.raises(TrainingDiverged, match=r"step 6: loss 4\.100"):
        settled(spike="stop").admits(6, 4.1, 1.0)


def test_the_first_loss_is_no_spike() -> None:
    """Catches a run that ends at its first step, where nothing is known yet."""
    assert Guards(GuardConfig(spike="stop")).admits(1, 1e6, 1.0) is None


def test_the_recent_mean_follows_slowly() -> None:
    """Catches a mean of the wrong weight: 0.95 of the old and 0.05 of the new."""
    guards = settled()
    guards.admits(6, 3.0, 1.0)
    assert guards.recent == pytest.approx(0.95 * 2.0 + 0.05 * 3.0)


def test_only_skips_in_a_row_end_a_run() -> None:
    """Catches a count that goes on over good steps, and a run that never ends."""
    guards = settled(max_skipped_in_a_row=3)
    for step in range(10):
        assert guards.admits(step, math.nan, 1.0) and guards.admits(step, math.nan, 1.0)
        assert guards.admits(step, 2.0, 1.0) is None
    guards.admits(11, math.nan, 1.0), guards.admits(12, math.nan, 1.0)
    with pytest.raises(TrainingDiverged, match="3 steps in a row up to step 13"):
        guards.admits(13, math.nan, 1.0)


def test_state_survives() -> None:
    """Catches a resumed run that has forgotten what is normal, or how often it has skipped."""
    guards = settled(spike="skip")
    guards.admits(6, math.nan, 1.0)
    again = Guards(guards.config)
    again.restore(guards.state())
    assert again == guards and again.admits(7, 4.1, 1.0) is not None


def test_values_are_checked() -> None:
    """Catches guards that stop at once, or that call every step a spike."""
    with pytest.raises(ConfigError, match="2 problems"):
        GuardConfig.parse({"max_skipped_in_a_row": 0, "spike_factor": 1.0})
