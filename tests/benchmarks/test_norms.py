from __future__ import annotations

import io

import pytest

from benchmarks import norms
from benchmarks.meter import Meter


class Enough(Exception):
    """Two passes are enough."""


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", list(norms.FORMS.values()))
def test_every_form_runs(form: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a contender that fails, or that runs another form than its name says (all compute the same)."""
    meter, ticks = Meter(io.StringIO(), io.StringIO("")), 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 2:
            raise Enough

    monkeypatch.setattr(meter, "tick", tick)
    with pytest.raises(Enough):
        norms.passes(meter, form=form, hidden=32, batch=2, training=training)
