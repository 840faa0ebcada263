"""The search for the peers' rates and batch sizes: a climb at a short horizon, then the best of it at full length.

The climb starts in the middle of the grid and tries the neighbours of the best point so far, one step along each axis,
until the best has no untried neighbour. Only losses are compared, so the trials run two at a time on one thread each,
with an allocator that keeps its memory.
Every trial is kept in results/sweeps.json and not run again: a sweep can be stopped and continued.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, WORK, Contender, run_fresh, table, versions
from pomona.ground.console import say
from pomona.ground.files import content_hash, file_hash, read_json, write_json
from pomona.ground.machine import machine

SWEEPS = RESULTS / "sweeps.json"
SHORT, FULL = 409_600, 1_638_400
"""Tokens of a trial at first, and of the comparison itself."""

PEERS = {"trainer": "benchmarks.peers.trainer:train", "muon_loop": "benchmarks.peers.muon_loop:train"}

GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "trainer": {"batch_size": (2, 4, 8), "learning_rate": (1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3)},
    "muon_loop": {
        "batch_size": (4, 8, 16),
        "muon_rate": (0.0025, 0.005, 0.01, 0.02, 0.04),
        "adam_rate": (2e-3, 4e-3, 8e-3, 16e-3),
    },
}
KEPT = 2
"""How many of the short trials go to full length."""

Trial = dict[str, Any]


def trials(peer: str, tokens_folder: Path | None = None) -> list[Trial]:
    """The finished trials of a peer, on these tokens or on any, best first, the full ones before the short ones."""
    if not SWEEPS.exists():
        return []
    found = [trial for trial in read_json(SWEEPS)["trials"] if trial["peer"] == peer]
    if tokens_folder is not None:
        data = file_hash(tokens_folder / "train.npy")[:16]
        found = [trial for trial in found if trial["data"] == data]
    return sorted(found, key=lambda trial: (-trial["options"]["tokens"], trial["loss"]))


def best(peer: str, tokens_folder: Path) -> dict[str, Any]:
    """The options of a peer's best trial, at full length.

    Trials on these very tokens come first; without one, those on other documentation serve (rates and batch sizes carry
    over, only the loss does not), and without any, the middle of the grid. A full trial decides before a short one.
    """
    for found in (trials(peer, tokens_folder), trials(peer)):
        if found:
            return {**found[0]["options"], "tokens": FULL}
    return {"tokens": FULL, **{name: values[len(values) // 2] for name, values in GRIDS[peer].items()}}


def planned(peer: str, tokens_folder: Path) -> list[dict[str, Any]]:
    """What is to run next: the untried neighbours of the best short trial, or the best short ones at full length."""
    done = trials(peer, tokens_folder)
    known = [trial["options"] for trial in done]
    short = [trial["options"] for trial in done if trial["options"]["tokens"] == SHORT]
    if not short:
        return [{"tokens": SHORT, **{name: values[len(values) // 2] for name, values in GRIDS[peer].items()}}]
    around = [options for options in neighbours(peer, short[0]) if options not in known]
    return around or [full for options in short[:KEPT] if (full := {**options, "tokens": FULL}) not in known]


def neighbours(peer: str, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The points of the grid that are one step away along one axis."""
    for name, values in GRIDS[peer].items():
        place = values.index(options[name])
        for near in values[max(0, place - 1) : place + 2]:
            if near != options[name]:
                yield {**options, name: near}


def run_trial(peer: str, options: Mapping[str, Any], tokens_folder: Path) -> Trial:
    """Train a peer once and return its validation loss."""
    name = f"{peer}-{content_hash(options)}"
    quiet_allocator = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
    folders = {"tokens_folder": str(tokens_folder), "folder": str(WORK / "sweep" / name)}
    contender = Contender(name, PEERS[peer], {**options, **folders}, {"OMP_NUM_THREADS": "1", **quiet_allocator})
    events = {event["event"]: event for event in run_fresh(contender)}
    return {
        "peer": peer,
        "data": file_hash(tokens_folder / "train.npy")[:16],
        "options": dict(options),
        "loss": round(events["evaluated"]["loss"], 4),
        "steps": events["trained"]["steps"],
    }


def sweep(tokens_folder: Path, peers: list[str], *, minutes: float = float("inf"), jobs: int | None = None) -> bool:
    """Run what is missing, for about so many minutes. Returns whether all of it is done."""
    jobs = jobs or max(1, len(os.sched_getaffinity(0)))
    end = time.monotonic() + 60 * minutes
    for peer in peers:
        while missing := planned(peer, tokens_folder):
            with ThreadPoolExecutor(jobs) as pool:
                for trial in pool.map(
                    lambda options, peer=peer: (
                        None if time.monotonic() > end else run_trial(peer, options, tokens_folder)
                    ),
                    missing,
                ):
                    if trial is None:
                        continue
                    say(f"{peer} {trial['options']}: {trial['loss']:.3f} nats")
                    kept = read_json(SWEEPS)["trials"] if SWEEPS.exists() else []
                    write_json(
                        SWEEPS, {"machine": machine().asdict(), "versions": versions(), "trials": [*kept, trial]}
                    )
            if time.monotonic() > end:
                say("[dim]time is up; call again to continue[/]")
                return False
    return True


def show(tokens_folder: Path) -> None:
    """Print every trial."""
    for peer in PEERS:
        rows = [
            (", ".join(f"{name} {value:g}" for name, value in trial["options"].items()), f"{trial['loss']:.3f}")
            for trial in trials(peer, tokens_folder)
        ]
        table(f"sweep of {peer}", ["", "nats"], rows)
