"""Contenders that only sleep: the harness is tested on them."""

from __future__ import annotations

import sys
import time

from benchmarks.meter import Meter


def steady(meter: Meter, *, seconds: float) -> None:
    """One tick per `seconds`, for ever; notes when each began."""
    sys.stdout.write("libraries may print what they like\n")
    while True:
        meter.note(began=time.monotonic())
        time.sleep(seconds)
        meter.tick()


def job(meter: Meter, *, loss: float) -> None:
    """A job with two events."""
    meter.report("trained", steps=3)
    meter.report("evaluated", loss=loss)


def broken(meter: Meter) -> None:
    """Fails before its first tick."""
    raise ValueError("the reason that a person needs to see")
