"""What a run's folder holds that its recipe does not lead to any more, and how to be rid of it.

A recipe that is changed leaves the old behind: checkpoints of stages that were interrupted and then given other values,
and finished folders of values that are not wanted any more. Nothing of it is wrong (who changes the recipe back, finds
it again), but it needs space.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pomona.ground.errors import ConfigError
from pomona.ground.files import MANIFEST, read_json, storage_errors, write_json
from pomona.stages.graph import Node, made_by
from pomona.stages.store import WORK_NOTE, Store

RUN = "run.json"
_FOLDER = re.compile(r"\d+-(?P<label>.+)-(?P<hash>[0-9a-f]{12})(?P<work>\.work)?")


@dataclass(frozen=True)
class Leftover:
    """A folder that is not needed any more: how large it is, and why it is there."""

    folder: Path
    bytes: int
    why: str


def note_run(folder: Path, nodes: Iterable[Node]) -> None:
    """Write down which stages the run is made of now."""
    write_json(folder / RUN, {"stages": {node.hash: node.label for node in nodes}})


def leftovers(folder: Path, *, finished: bool = False) -> list[Leftover]:
    """What is not needed any more in the folder of a run, by name.

    Args:
        folder: of the run, `runs/<recipe>`.
        finished: also list finished folders: those of stages that the recipe has no longer, or with other values, and
            the pilots of stages that are finished. Another recipe may use them still; it would make them again.

    Raises:
        ConfigError: that is no run's folder.
    """
    if not (folder / RUN).is_file():
        raise ConfigError(
            f"{folder} is not the folder of a run", needs=f"a file {RUN}", found="none", do="give runs/RECIPE"
        )
    current: Mapping[str, str] = read_json(folder / RUN)["stages"]
    found = []
    for path in sorted(folder.iterdir()):
        match = _FOLDER.fullmatch(path.name)
        if match is None or not path.is_dir():
            continue
        why = _why_work(path, match["label"], current) if match["work"] else _why_made(path, match, current)
        if why and (finished or match["work"]):
            found.append(Leftover(path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()), why))
    return found


def described(found: Sequence[Leftover]) -> str:
    """How many folders, and how large they are together."""
    number = "1 folder" if len(found) == 1 else f"{len(found)} folders"
    return f"{number}, {sum(each.bytes for each in found) / 1e6:,.1f} MB"


def remove(folder: Path, found: Iterable[Leftover]) -> None:
    """Delete leftovers. Raises `FolderBusy` while the run works."""
    with Store(folder).locked():
        for each in found:
            with storage_errors(each.folder):
                shutil.rmtree(each.folder)


def _why_work(path: Path, label: str, current: Mapping[str, str]) -> str:
    """Why unfinished work is not needed; empty where the next run continues it."""
    note = path / WORK_NOTE
    stage: dict[str, Any] = read_json(note) if note.is_file() else {}
    wanted = str(stage.get("for"))
    if wanted not in current:
        return f"unfinished work of {label}, which has changed"
    return f"unfinished work of {label}, which is not needed" if _is_made(path.parent, wanted) else ""


def _why_made(path: Path, match: re.Match[str], current: Mapping[str, str]) -> str:
    """Why a finished folder is not needed; empty where the recipe leads to it."""
    if match["hash"] in current:
        return ""
    wanted = str(made_by(path).get("for"))
    if wanted in current:
        return f"a pilot of {current[wanted]}, which is finished" if _is_made(path.parent, wanted) else ""
    return f"{match['label']} with other values"


def _is_made(run: Path, wanted: str) -> bool:
    return any((path / MANIFEST).is_file() for path in run.parent.glob(f"*/[0-9]*-{wanted}"))
