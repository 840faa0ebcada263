"""The rows of the catalog, and the way from a slug to the class that holds a method's parameters."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pomona.catalog.kinds import KINDS, MODALITIES, STAGES, Kind, Modality
from pomona.ground.errors import ConfigError, Problem, did_you_mean, raise_problems
from pomona.ground.files import read_json
from pomona.ground.yaml import YamlDocument, read_yaml

if TYPE_CHECKING:
    from pomona.ground.config import MethodConfig

OWN = Path(__file__).parent.parent / "catalog.yaml"
ENTRY_POINTS = "pomona.methods"

Status = Literal["planned", "built"]
STATUSES: tuple[Status, ...] = get_args(Status)
VERDICTS = ("reproduced", "partly", "not reproduced", "not run")
RESULTS = Path(__file__).parent.parent / "evidence/results"
"""What `pomona evidence run` found out, one file for each system and scale."""
SCALES = ("gpu", "small", "tiny")

PATTERNS = {
    "slug": r"[a-z0-9]+([-_][a-z0-9]+)*",
    "title": r".+",
    "kind": "|".join(KINDS),
    "modality": "|".join(MODALITIES),
    "year": r"[12]\d{3}",
    "arxiv": r"\d{4}\.\d{4,5}",
    "implements": r"[\w.]+:\w+",
    "summary": r".{1,110}",
    "origin": "published|standard",
}
"""What the values of a row look like; of `modality`, each word."""
NULLABLE = ("year", "arxiv", "implements")


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        slug: what recipes and commands call it.
        title: of the publication, or the usual name.
        kind: what it is for.
        modality: the kinds of data it is about.
        year: of the first publication. arxiv: its identifier there.
        implements: `module:name` of the function or class; None while there is none.
        summary: one line for the list.
        origin: `published`: a system with a claim of its own to measure; `standard`: a plain building block.
    """

    slug: str
    title: str
    kind: Kind
    modality: tuple[Modality, ...]
    year: int | None
    arxiv: str | None
    implements: str | None
    summary: str
    origin: Literal["published", "standard"]

    @property
    def module(self) -> str | None:
        """The module of `implements`."""
        return self.implements and self.implements.partition(":")[0]

    @property
    def stages(self) -> tuple[str, ...]:
        """The verbs of a recipe that take it."""
        return STAGES[self.kind]

    @property
    def status(self) -> Status:
        """How far it has come, found out from the files that are there: `built` when its module is."""
        return "built" if self.module and source_file(self.module) else "planned"

    @property
    def verdict(self) -> str:
        """What the evidence at the largest scale says, or `not run`; `pomona evidence status` tells if it is stale."""
        for scale in SCALES:
            if (file := RESULTS / f"{self.slug}.{scale}.json").is_file():
                return str(read_json(file)["verdict"]["status"])
        return "not run"


@cache
def rows() -> tuple[Row, ...]:
    """Every method, pomona's own first. Raises `ConfigError` when a catalog is not valid or two share a slug."""
    files = [OWN, *(_file_of(point.name, point.value) for point in entry_points(group=ENTRY_POINTS))]
    found: dict[str, Row] = {}
    for file in files:
        for row in _rows_of(file):
            if normal(row.slug) in found:
                raise ConfigError(f"two methods are called {row.slug!r}", where=str(file), do="rename one of them")
            found[normal(row.slug)] = row
    return tuple(found.values())


def select(
    kind: str | None = None,
    stage: str | None = None,
    modality: str | None = None,
    status: str | None = None,
    verdict: str | None = None,
) -> list[Row]:
    """The rows that have all that is asked for; methods for any modality belong to each.

    Raises:
        ConfigError: an unknown kind, stage, modality, status or verdict, with the nearest names.
    """
    verbs = sorted({verb for verbs in STAGES.values() for verb in verbs})
    asked = {"kind": (kind, KINDS), "stage": (stage, verbs), "modality": (modality, MODALITIES)}
    found = {"status": (status, STATUSES), "verdict": (verdict, VERDICTS)}
    for name, (word, known) in {**asked, **found}.items():
        if word is not None and word not in known:
            raise ConfigError(f"unknown {name} {word!r}", do=did_you_mean(word, known))
    return [
        row
        for row in rows()
        if kind in (None, row.kind)
        and (stage is None or stage in row.stages)
        and (modality is None or not {modality, "any"}.isdisjoint(row.modality))
        and (status is None or status == row.status)
        and (verdict is None or (row.origin == "published" and verdict == row.verdict))
    ]


def find(slug: str, kind: str | None = None) -> Row:
    """The row of a method, planned ones included; `-` and `_` are the same. Raises `ConfigError` with near names."""
    row = next((row for row in rows() if normal(row.slug) == normal(slug)), None)
    if row is None and kind is None:
        near = did_you_mean(slug, [row.slug for row in rows()], otherwise="`pomona methods --all` lists every one")
        raise ConfigError(f"unknown method {slug!r}", do=near)
    if row is None:
        raise ConfigError(f"unknown {kind} {slug!r}", do=did_you_mean(slug, _built(kind)))
    if kind not in (None, row.kind):
        raise ConfigError(f"{row.slug!r} is of kind {row.kind}, not {kind}", do=did_you_mean(slug, _built(kind)))
    return row


def module_of(row: Row) -> str:
    """The module that holds a method. Raises `ConfigError` for a planned one, with what is built of its kind."""
    if row.module is None:
        built = _built(row.kind)
        raise ConfigError(
            f"{row.slug!r} is planned, not built yet",
            do=f"built of its kind ({row.kind}): {', '.join(built)}" if built else f"no {row.kind} is built yet",
        )
    return row.module


def config_class(kind: str, slug: str) -> type[MethodConfig]:
    """The class of a method's parameters: the one `MethodConfig` with that slug in the method's module.

    This imports the module. Raises `ConfigError` when the slug is unknown, planned, or the module has no such class.
    """
    from pomona.ground.config import MethodConfig

    row = find(slug, kind)
    module = importlib.import_module(module_of(row))
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, MethodConfig) and value is not MethodConfig:
            default = value.model_fields["method"].default
            if isinstance(default, str) and normal(default) == normal(row.slug):
                return value
    raise ConfigError(
        f"{row.module} does not define the parameters of {row.slug!r}",
        needs=f'a MethodConfig with method: Literal["{row.slug}"] = "{row.slug}"',
    )


def normal(slug: str) -> str:
    """The form in which slugs are compared."""
    return slug.strip().lower().replace("_", "-")


def source_file(module: str) -> Path | None:
    """The source file of a module, found without importing it or its parents."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None:
        return None
    places = spec.submodule_search_locations
    if places is None:
        return Path(spec.origin) if spec.origin and not rest else None
    for place in places:
        base = Path(place, *rest)
        for file in (base.with_suffix(".py") if rest else base / "__init__.py", base / "__init__.py"):
            if file.is_file():
                return file
    return None


def _built(kind: str | None) -> list[str]:
    return sorted(row.slug for row in select(kind=kind, status="built"))


def _file_of(name: str, package: str) -> Path:
    """`catalog.yaml` of the package that an entry point names."""
    source = source_file(package.partition(":")[0])
    if source is None or not (source.parent / "catalog.yaml").is_file():
        raise ConfigError(
            f"the entry point {name!r} of {ENTRY_POINTS} leads nowhere",
            needs=f"a file catalog.yaml in the package {package!r}",
            do="mend or uninstall the package that declares it",
        )
    return source.parent / "catalog.yaml"


def _rows_of(file: Path) -> list[Row]:
    """The rows of one file; `ConfigError` lists everything that is wrong with them, with lines."""
    document = read_yaml(file)
    if not isinstance(document.value, list):
        raise ConfigError(f"{file} is not a list of methods")
    raise_problems(
        (problem for index in range(len(document.value)) for problem in _problems(document, index)),
        f"the catalog {file} is not valid",
    )
    return [Row(**{**values, "modality": tuple(values["modality"])}) for values in document.value]


def _problems(document: YamlDocument, index: int) -> list[Problem]:
    """What is wrong with one row."""
    values = document.value[index]
    if not isinstance(values, dict):
        return [Problem(document.where((index,)), "is not a mapping")]
    names = [field.name for field in fields(Row)]
    problems = [
        Problem(document.where((index, key)), "unknown key", did_you_mean(key, names))
        for key in values
        if key not in names
    ]
    problems += [
        Problem(document.where((index, name)), "is required and absent") for name in names if name not in values
    ]
    for name, value in values.items():
        if name not in PATTERNS or (name in NULLABLE and value is None):
            continue
        where = document.where((index, name))
        if name == "modality" and (not isinstance(value, list) or not value):
            problems.append(Problem(where, "should be a list of words"))
            continue
        words: list[Any] = value if name == "modality" else [value]
        problems += [
            Problem(where, f"{word!r} is not of the form {PATTERNS[name]}")
            for word in words
            if not re.fullmatch(PATTERNS[name], str(word))
        ]
    return problems
