"""Nanoseconds for a logarithm of a Bessel function: pomona compiled and in torch, against SciPy.

Orders up to 1e5 and arguments in [1e-3, 1e6], half of the orders uniform and half of every size. SciPy computes the
scaled functions and their logarithm, and gives something that is not finite for a part of the range (its share is
shown). Held equal: values, float64. pomona uses the threads of torch, SciPy has one; a row of one thread is shown too.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Contender, Goal, Quiet, Spread, interleave, main, ratios, save, show_goals, table
from benchmarks.meter import Meter

VALUES = 200_000
WAYS = ("pomona", "pomona, one thread", "pomona, in torch", "SciPy")


def points(count: int) -> tuple[Any, Any]:
    """Orders and arguments, the same at every call."""
    import numpy as np

    draw = np.random.default_rng(0)
    u = draw.random((3, count))
    sizes = np.exp(math.log(1e-3) + u[0] * math.log(1e8))
    return np.where(u[1] < 0.5, sizes, u[0] * 1e5), np.exp(math.log(1e-3) + u[2] * math.log(1e9))


def evaluate(meter: Meter, *, way: str, first: bool, count: int) -> None:
    """All values, again and again; a tick each."""
    import numpy as np
    import torch

    v, x = points(count)
    if way == "SciPy":
        from scipy import special

        function = special.ive if first else special.kve
        sign = 1.0 if first else -1.0
        while True:
            with np.errstate(all="ignore"):
                made = np.log(function(v, x)) + sign * x
            meter.note(finite=float(np.isfinite(made).mean()))
            meter.tick()
    from pomona.numerics import bessel_native, log_iv, log_kv

    if way == "pomona, one thread":
        torch.set_num_threads(1)
    if way == "pomona, in torch":
        bessel_native.available = lambda: False
    function = log_iv if first else log_kv
    order, argument = torch.from_numpy(v), torch.from_numpy(x)
    while True:
        made = function(order, argument)
        meter.note(finite=float(made.isfinite().double().mean()))
        meter.tick()


def run(*, quick: bool = False) -> None:
    """Measure and print."""
    count = 2000 if quick else VALUES
    protocol = {"rounds": 2 if quick else 7, "ticks_per_round": 2 if quick else 4, "warmup_ticks": 2}
    measured: dict[str, dict[str, Any]] = {}
    rows, goals = [], []
    with Quiet() as quiet:
        for name, first in (("log I", True), ("log K", False)):
            contenders = [
                Contender(way, "benchmarks.bessel:evaluate", {"way": way, "first": first, "count": count})
                for way in WAYS
            ]
            rounds = interleave(contenders, **protocol)
            each = {
                way: [event["seconds"] / event["ticks"] / count * 1e9 for event in events]
                for way, events in rounds.items()
            }
            finite = {way: events[-1]["finite"] for way, events in rounds.items()}
            measured[name] = {"nanoseconds": each, "finite": finite}
            rows += [
                (name, way, Spread.of(each[way]).show(".1f", " ns"), ratios(each["SciPy"], each[way]).show(".1f", "x"),
                 f"{finite[way]:.1%}")
                for way in WAYS
            ]  # fmt: skip
            goals.append(Goal(f"{name}, a value", Spread.of(each["pomona"]).median, 15, at_least=False, unit="ns"))
            goals.append(Goal(f"{name}, finite", finite["pomona"], 1.0, unit="of all"))
    note = f"median (range) of {protocol['rounds']} rounds; above 1x is faster than SciPy"
    table("logarithms of Bessel functions", ["", "", "a value", "against SciPy", "finite"], rows, note, texts=2)
    show_goals(goals)
    save(
        "bessel",
        config={**protocol, "values": count},
        measured={**measured, "machine_use": quiet.facts()},
        goals=goals,
        code=[
            Path(__file__),
            *sorted((ROOT / "pomona/numerics").glob("bessel*")),
            ROOT / "pomona/numerics/log_bessel.py",
        ],
        quick=quick,
    )


if __name__ == "__main__":
    main(run, __doc__)
