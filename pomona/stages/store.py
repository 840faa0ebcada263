"""Where artefacts lie: content-addressed folders that are found again, checked, rebuilt, and never half written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pomona.ground.files import (
    MANIFEST,
    atomic_folder,
    clear_partial,
    damage,
    folder_lock,
    read_manifest,
    storage_errors,
    write_json,
)
from pomona.ground.ranks import is_main, wait
from pomona.stages.base import Artefact
from pomona.stages.graph import Node, Outside, made_by

WORK_NOTE = "stage.json"
"""Says in a folder of unfinished work whose it is."""

State = Literal["made", "damaged", "absent"]


@dataclass(frozen=True)
class Found:
    """What is there of a stage: its folder, whether it can be used, and what is wrong with it."""

    state: State
    folder: Path
    wrong: tuple[str, ...] = ()


class Store:
    """The folders of one run: `<out>/<recipe>/<NN>-<name>-<hash>`. Other runs beside it are read, never written.

    Args:
        folder: of the run.
        fixed: the folder of a stage that lies elsewhere, by its hash; for single commands.
    """

    def __init__(self, folder: Path, fixed: Mapping[str, Path] | None = None) -> None:
        self.folder, self.fixed = folder, dict(fixed or {})
        self._checked: dict[Path, tuple[str, ...]] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's folder; a second run is refused. What a killed one left half written is removed.

        Of several processes rank 0 holds it for all.
        """
        wait()  # all have seen what was there
        with folder_lock(self.folder) if is_main() else nullcontext():
            if is_main():
                clear_partial(self.folder)
                for place in self.fixed.values():
                    clear_partial(place.parent, place.name)
            wait()
            yield

    def place(self, node: Node) -> Path:
        """The folder that a stage's artefact is written to."""
        return self.fixed.get(node.hash, self.folder / self._name(node))

    def find(self, node: Node) -> Found:
        """What is there: in this run first, then in the runs beside it."""
        own = self.place(node)
        if node.hash in self.fixed:
            wrong = self._damage(own)
            same = not wrong and made_by(own).get("hash") == node.hash
            return Found("made" if same else "absent" if not own.exists() else "damaged", own, wrong)
        places = [own, *sorted(self.folder.glob(f"[0-9]*-{node.hash}"))]
        places += sorted(self.folder.parent.glob(f"*/[0-9]*-{node.hash}"))
        damaged: Found | None = None
        for place in dict.fromkeys(path for path in places if path.is_dir()):
            wrong = self._damage(place)
            if not wrong:
                return Found("made", place)
            if damaged is None and place.parent == self.folder:
                damaged = Found("damaged", place, wrong)
        return damaged or Found("absent", own)

    def work(self, node: Node) -> Path:
        """The folder of a stage's unfinished work, the same one in every run of that stage here."""
        left = sorted(self.folder.glob(f"[0-9]*-{node.hash}.work"))
        return left[0] if left else self.folder / f"{self._name(node)}.work"

    @contextmanager
    def writing(self, node: Node, facts: Mapping[str, Any]) -> Iterator[Path]:
        """Yield an empty folder that becomes the artefact, with its manifest, when the block succeeds."""
        place, work = self.place(node), self.work(node)
        with storage_errors(work):
            work.mkdir(parents=True, exist_ok=True)
            write_json(work / WORK_NOTE, {"hash": node.hash, "for": node.asked_by})
        with atomic_folder(place, facts) as part:
            yield part
        self.forget(node)
        self.drop_work(node)

    def forget(self, node: Node) -> None:
        """Look again at the folder of a stage, which has been written since."""
        self._checked.pop(self.place(node), None)

    def drop_work(self, node: Node) -> None:
        """Remove what was left unfinished of a stage that is finished now, here or in another run."""
        if (work := self.work(node)).exists():
            shutil.rmtree(work, ignore_errors=True)

    def artefact(self, node: Node, folder: Path) -> Artefact:
        """A finished stage as later ones see it."""
        facts = read_manifest(folder)
        parents = {name: [self.source(each) for each in sources] for name, sources in node.inputs.items()}
        return Artefact(node.label, node.stage.verb, node.stage.makes, folder, node.hash, facts, parents)

    def source(self, source: Node | Outside) -> Artefact:
        """An input as an artefact. It must be there."""
        if isinstance(source, Node):
            return self.artefact(source, self.find(source).folder)
        return outside_artefact(source)

    def _name(self, node: Node) -> str:
        return f"{node.index + 1:02d}-{node.label}-{node.hash}"

    def _damage(self, folder: Path) -> tuple[str, ...]:
        """What is wrong with a folder; checksums are compared once per process."""
        if folder not in self._checked:
            self._checked[folder] = tuple(damage(folder)) if folder.is_dir() else ("absent",)
        return self._checked[folder]


def outside_artefact(source: Outside) -> Artefact:
    """A folder from elsewhere as an artefact."""
    facts = read_manifest(source.folder) if (source.folder / MANIFEST).is_file() else {}
    verb = str(made_by(source.folder).get("verb", "outside"))
    return Artefact(source.name, verb, source.kind, source.folder, source.hash, facts)
