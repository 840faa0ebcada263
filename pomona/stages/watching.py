"""What a run is doing, read from its files alone: from another terminal, another machine, or after its death.

Nothing here takes a lock or writes, and torch is not imported, so looking cannot disturb the run.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pomona.ground.errors import ConfigError
from pomona.ground.files import LOCK, MANIFEST, read_json, read_manifest, read_records
from pomona.stages.cleaning import RUN
from pomona.stages.store import WORK_NOTE

FIT, METRICS, LENGTH = "fit", "metrics.jsonl", "length.json"
"""Where a stage that trains keeps its records, and how many steps it will have."""
_OWNER = re.compile(r"(?P<host>\S+) pid (?P<pid>\d+) since (?P<since>.+)")


@dataclass(frozen=True)
class Training:
    """How far a training run is, as its last record says.

    Attributes:
        label: of the stage, or of its pilot. step, steps: done, and in all (None where that is not written down).
        loss: nats per token of the last batch that was recorded. held_out: of the last evaluation, or None.
        rate: tokens per second. left: seconds until the last step at this pace, or None.
        age: seconds since the last record was written.
    """

    label: str
    step: int
    steps: int | None
    loss: float | None
    held_out: float | None
    rate: float | None
    left: float | None
    age: float


@dataclass(frozen=True)
class Place:
    """One stage of a run. `seconds` is what it took, where it is made; `note` what it says of itself."""

    label: str
    state: Literal["made", "begun", "waiting"]
    seconds: float | None = None
    note: str = ""
    training: Training | None = None


@dataclass(frozen=True)
class Watched:
    """A run as its files tell it.

    Attributes:
        owner: who works on it, as it wrote itself down; empty where nobody ever did.
        alive: whether that process is there; None on another host, where it cannot be seen.
    """

    folder: Path
    owner: str
    alive: bool | None
    places: tuple[Place, ...]

    @property
    def finished(self) -> bool:
        """Whether every stage is made."""
        return all(place.state == "made" for place in self.places)


def look(folder: Path) -> Watched:
    """Read how far a run is.

    Args:
        folder: of the run, `runs/<recipe>`.
    Raises:
        ConfigError: that is no run's folder.
    """
    if not (folder / RUN).is_file():
        raise ConfigError(f"{folder} is not the folder of a run", needs=f"a file {RUN}", do="give runs/RECIPE")
    stages: dict[str, str] = read_json(folder / RUN)["stages"]
    works: dict[str, list[Path]] = {}
    for work in folder.glob("[0-9]*.work"):
        note = work / WORK_NOTE
        if note.is_file():
            works.setdefault(str(read_json(note).get("for")), []).append(work)
    owner, alive = _owner(folder)
    return Watched(folder, owner, alive, tuple(_place(folder, *stage, works) for stage in stages.items()))


def _place(folder: Path, hash_: str, label: str, works: dict[str, list[Path]]) -> Place:
    made = next((path for path in folder.parent.glob(f"*/[0-9]*-{hash_}") if (path / MANIFEST).is_file()), None)
    if made is not None:
        facts = read_manifest(made)
        return Place(label, "made", facts.get("stage", {}).get("seconds"), str(facts.get("note", "")))
    found = [training for work in works.get(hash_, []) if (training := _training(work)) is not None]
    if hash_ not in works:
        return Place(label, "waiting")
    return Place(label, "begun", training=min(found, key=lambda each: each.age, default=None))


def _training(work: Path) -> Training | None:
    """The run within a stage's unfinished work; None before its first record."""
    file = work / FIT / METRICS
    records = read_records(file)
    if not records:
        return None
    length = work / FIT / LENGTH
    steps = int(read_json(length)["steps"]) if length.is_file() else None
    last: Mapping[str, float] = next((record for record in reversed(records) if "loss" in record), {})
    told: Mapping[str, float] = next((each["validation"] for each in reversed(records) if "validation" in each), {})
    step, seconds = int(records[-1]["step"]), float(records[-1]["seconds"])
    left = None if steps is None or not step else (steps - step) * seconds / step
    label = work.name.partition("-")[2].rpartition("-")[0]
    age = max(0.0, time.time() - file.stat().st_mtime)
    rate = last.get("tokens_per_second")
    return Training(label, step, steps, last.get("loss"), told.get("nats_per_token"), rate, left, age)


def _owner(folder: Path) -> tuple[str, bool | None]:
    """Who has written itself down in the lock, and whether it lives. A lock that is left behind is nobody's."""
    file = folder / LOCK
    owner = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    match = _OWNER.fullmatch(owner)
    if match is None:
        return owner, False
    if match["host"] != socket.gethostname():
        return owner, None
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return owner, False
    except PermissionError:  # it is another user's
        return owner, True
    return owner, True
