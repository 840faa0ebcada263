"""What a stage is: one definition that gives the YAML stage, the command and the Python call.

A stage is a frozen configuration with three verbs of its own:

    plan(view)   check it against what it will be given, and say what it will make and cost; computes nothing
    seconds(..)  how long that takes on this machine, from a short probe
    make(job)    do it, writing into `job.folder`

Everything else (names, hashes, folders, order, reuse) is the framework's, and the same for every stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from pomona.ground.config import Config
from pomona.ground.errors import Problem
from pomona.ground.files import read_json

if TYPE_CHECKING:
    from pomona.engine import Ledger

ArtefactKind = Literal[
    "corpus",
    "tokens",
    "scores",
    "examples",
    "images",
    "model",
    "learner",
    "examination",
    "finding",
    "export",
    "report",
]
"""What a stage can make, and another can need."""

Name = str | None


@dataclass(frozen=True)
class Need:
    """An input of a stage.

    Attributes:
        field: key of the recipe that names it (`from`, `data`); also its name in `Job.inputs`.
        kind: what it has to be.
        names: what the recipe gives: names of stages or paths of folders.
        default: what an empty `names` means: the last artefact of that kind, all of them, those that no later stage
            trains on, or nothing.
        optional: may be absent.
        also: further kinds that it may be.
    """

    field: str
    kind: ArtefactKind
    names: tuple[str, ...] = ()
    default: Literal["last", "all", "ends", "none"] = "last"
    optional: bool = False
    also: tuple[ArtefactKind, ...] = ()

    @property
    def kinds(self) -> tuple[ArtefactKind, ...]:
        """What it may be."""
        return (self.kind, *self.also)

    def __str__(self) -> str:
        return " or ".join(self.kinds)


@dataclass
class Forecast:
    """What is known about a stage before it runs. None means unknown.

    Attributes:
        tokens, flops: work that the stage will do.
        parameters: of the model that it leaves.
        note: a few words for the plan.
        remark: a line below the plan, which several stages may share.
        known: facts that later stages may rely on: `model` on the meta device, the `objective` that it is trained
            for, `vocab_size`, a function that gives the `tokenizer` (or one with the same special tokens); of what is
            made already, its `folder` and the `facts` of its manifest.
    """

    tokens: int | None = None
    parameters: int | None = None
    flops: float | None = None
    note: str = ""
    remark: str = ""
    known: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Artefact:
    """A finished folder and where it comes from.

    Attributes:
        name: of the stage that made it.
        verb, kind: of that stage, and of what it made.
        folder: where it lies.
        hash: of the configuration and of all inputs.
        facts: what the stage said about it, from the manifest; how it was made is under `stage`.
        parents: its inputs, by field.
    """

    name: str
    verb: str
    kind: ArtefactKind
    folder: Path
    hash: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, Sequence[Artefact]] = field(default_factory=dict)

    def ledger(self) -> dict[str, Any]:
        """What making it cost (`Ledger.to_dict`); empty where nothing was counted."""
        file = self.folder / "ledger.json"
        return read_json(file) if file.is_file() else {}


@dataclass
class Made:
    """What `make` returns: facts for the manifest (plain values) and the cost."""

    facts: dict[str, Any] = field(default_factory=dict)
    ledger: Ledger | None = None


@dataclass
class Job:
    """What a stage is given to work with.

    Attributes:
        name: label of the stage.
        seed: of everything random in it.
        inputs: artefacts by the `field` of the need.
        folder: an empty folder that becomes the artefact when `make` returns.
        work: a folder that survives a kill and is removed once the artefact is complete.
        run: makes another stage from the same inputs (a pilot), reused when it is there already.
        finished: every artefact of this run so far, in order.
        recipe: the recipe as it ran, for the record.
        main: whether this process writes.
    """

    name: str
    seed: int
    inputs: Mapping[str, Sequence[Artefact]]
    folder: Path
    work: Path
    run: Callable[[Stage, str], Artefact]
    finished: Sequence[Artefact] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    main: bool = True

    def input(self, name: str) -> Artefact:
        """The one artefact of that need."""
        (artefact,) = self.inputs[name]
        return artefact


class View:
    """What a stage sees while the plan is made: its inputs' forecasts, and where to report problems.

    Attributes:
        seed: of everything random in the stage.
        made: the stage is finished already, so what only making it needs (a download) need not be there.
    """

    def __init__(
        self,
        inputs: Mapping[str, Sequence[Forecast]],
        seed: int,
        report: Callable[[str, str, str], None],
        ledgers: Mapping[str, Sequence[Mapping[str, Any]]],
        made: bool = False,
    ) -> None:
        self._inputs, self.seed, self._report, self._ledgers = inputs, seed, report, ledgers
        self.made = made

    def all(self, name: str) -> Sequence[Forecast]:
        """The forecasts of a need."""
        return self._inputs.get(name, ())

    def one(self, name: str) -> Forecast:
        """The forecast of a need that is one artefact; an empty one where the input itself has a problem."""
        found = self._inputs.get(name, ())
        return found[0] if found else Forecast()

    def known(self, name: str, fact: str) -> Any:
        """A fact that an input is known to have, or None."""
        return self.one(name).known.get(fact)

    def flops(self, name: str) -> float | None:
        """FLOPs that the artefacts of a need cost, measured where they are made, else forecast; None if unknown."""
        total = 0.0
        for forecast, ledger in zip(self.all(name), self._ledgers.get(name, ()), strict=False):
            cost = ledger_flops(ledger) if ledger else forecast.flops
            if cost is None:
                return None
            total += cost
        return total

    def problem(self, key: str, what: str, do: str = "") -> None:
        """Report something wrong at `key` (dotted, below the stage) of the recipe."""
        self._report(key, what, do)


class Stage(Config):
    """The base of every stage."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    verb: ClassVar[str]
    """What recipes and commands call it."""
    makes: ClassVar[ArtefactKind]
    format: ClassVar[int] = 1
    """Version of what it writes: raised when an old folder must not be reused."""
    flat: ClassVar[str | None] = None
    """A field whose method takes its parameters from the stage itself: `grow: {method: g-stack, factor: 2}`."""
    seeded: ClassVar[bool] = False
    """Whether the seed changes what is made."""
    supersedes: ClassVar[bool] = False
    """Whether the model it takes is a waypoint from then on: not examined unless asked for."""
    on_all_ranks: ClassVar[bool] = False
    """Whether all processes of a run carry it out together. Other stages are for rank 0 alone, the others wait."""
    later: ClassVar[frozenset[str]] = frozenset()
    """Keys that the stage has not had from the beginning: while they have their default they do not enter the hash, so
    that what was made before is found again."""
    silent: ClassVar[frozenset[str]] = frozenset()
    """Dotted keys that do not change what is made, and so do not enter the hash."""

    name: Name = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Label by which later stages refer to it. Default: the verb."""

    @model_validator(mode="before")
    @classmethod
    def _gather_method(cls, values: Any) -> Any:
        """Move keys that are not the stage's own to its method."""
        if cls.flat is None or not isinstance(values, dict):
            return values
        own = {name for key, field in cls.model_fields.items() for name in (key, field.alias) if name}
        parameters = {key: value for key, value in values.items() if key not in own}
        method = values.get(cls.flat, cls.model_fields[cls.flat].default)
        if not parameters or not isinstance(method, str):
            return values
        rest = {key: value for key, value in values.items() if key in own}
        return {**rest, cls.flat: {"method": method, **parameters}}

    def needs(self) -> tuple[Need, ...]:
        """The inputs."""
        return ()

    def identity(self) -> dict[str, Any]:
        """What distinguishes this stage's result from another's, besides its inputs."""
        values: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        own_seed = ("seed",) if self.seeded else ()
        for key in ("name", *own_seed, *(need.field for need in self.needs())):
            values.pop(key, None)
        for key in self.later:
            if getattr(self, key) == type(self).model_fields[key].default:
                values.pop(key, None)
        for key in self.silent:
            *path, last = key.split(".")
            here: Any = values
            for part in path:
                here = here.get(part) or {}
            here.pop(last, None)
        return values

    def outside(self) -> Any:
        """A fingerprint of what lies outside the run and is read (sources), or None. Cheap; changes with it."""
        return None

    def plan(self, view: View) -> Forecast:
        """Check the stage against its inputs (problems go to `view`) and say what it will make."""
        return Forecast()

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        """How long it takes on this machine, from a probe of a second or two; None where that is not known."""
        return None

    def make(self, job: Job) -> Made:
        """Do it. On all ranks, where they do it together, of which `job.main` alone writes into the folders."""
        raise NotImplementedError


def problem_at(prefix: str, key: str, what: str, do: str = "") -> Problem:
    """A problem at a dotted key below `prefix`."""
    return Problem(".".join(part for part in (prefix, key) if part), what, do)


def ledger_flops(ledger: Mapping[str, Any]) -> float:
    """FLOPs that made a model, from `Ledger.to_dict`: without evaluation and sweeps."""
    purposes = ledger.get("purposes", {})
    return float(sum(cost["flops"] for name, cost in purposes.items() if name not in ("evaluate", "sweep")))
