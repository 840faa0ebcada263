"""The errors a user can meet: one class per kind of remedy, each saying what, where and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


class PomonaError(Exception):
    """An error with a remedy. The command line prints it without a traceback.

    Args:
        what: one sentence that names what was asked and what stopped it.
        where: the file and line, parameter or module path it concerns.
        needs: the invariant that does not hold.
        found: what is there instead.
        do: what the user can do about it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        needs: str | None = None,
        found: str | None = None,
        do: str | None = None,
    ) -> None:
        self.what, self.where, self.needs, self.found, self.do = what, where, needs, found, do
        facts = [("where", where), ("needs", needs), ("found", found), ("do", do)]
        super().__init__("\n".join([what, *(f"  {name + ':':<7}{fact}" for name, fact in facts if fact)]))


class ConfigError(PomonaError):
    """A value, key or combination in a recipe, a call or a command is wrong: change the configuration."""

    exit_code = 2


class DataError(PomonaError):
    """The data cannot be used as they are: mend the file that is named, or choose to skip bad lines."""


class UnsupportedModel(PomonaError):
    """A method or an edit does not fit this model: choose another model or another method."""


class DamagedArtefact(PomonaError):
    """A file pomona wrote is missing, truncated or changed: it is rebuilt, or an older intact one is used."""


class UnsafeFile(PomonaError):
    """The file could run code when it is read (a pickle, remote code): convert it first, elsewhere."""


class FolderBusy(PomonaError):
    """Another process works in this folder: wait for it, or choose another folder."""


class StorageError(PomonaError):
    """Writing failed (disk full, no permission): free space or choose another folder, then repeat the command."""


class TrainingDiverged(PomonaError):
    """Loss or gradients stopped being finite, or spiked beyond recovery: lower the learning rate.

    `spent` is what the run had cost by then, as plain values of its ledger.
    """

    spent: Mapping[str, Any] | None = None


class TrainingStopped(PomonaError):
    """A signal ended the run after a checkpoint was written: repeat the command to continue."""

    exit_code = 130


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, so that all of them can be reported at once."""

    where: str
    what: str
    do: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"\n      {self.do}" if self.do else "")


def raise_problems(problems: Iterable[Problem], what: str) -> None:
    """Raise one `ConfigError` that lists every problem; return quietly when there is none."""
    found = list(problems)
    if found:
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        raise ConfigError(f"{what}: {count}\n" + "\n".join(f"  - {problem}" for problem in found))


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """A remedy for an unknown name: the nearest known names; when none is near `otherwise`, by default all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.55)
    if near:
        return f"did you mean {', '.join(map(repr, near))}?"
    return otherwise or f"known: {', '.join(names)}"
