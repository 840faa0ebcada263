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

from pomona.ground.errors import ConfigError, Problem, did_you_mean, raise_problems
from pomona.ground.yaml import read_yaml

if TYPE_CHECKING:
    from pomona.ground.config import MethodConfig

Kind = Literal["objective", "optimizer", "schedule", "growth", "sparsity", "quantization", "merging", "conversion"]
KINDS: tuple[str, ...] = get_args(Kind)

OWN = Path(__file__).parent.parent / "catalog.yaml"
ENTRY_POINTS = "pomona.methods"
PATTERNS = {
    "slug": r"[a-z0-9]+([-_][a-z0-9]+)*",
    "kind": "|".join(KINDS),
    "implements": r"[\w.]+:\w+",
    "status": "standard|published",
}
"""What the values of a row look like."""


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        slug: what recipes and commands call it.
        title: of the publication, or the usual name.
        kind: what it is for.
        year: of the first publication. arxiv: its identifier there.
        implements: `module:name` of the function or class.
        summary: one line for the list.
        status: `published`: a paper's system with a claim of its own; `standard`: a plain building block.
    """

    slug: str
    title: str
    kind: Kind
    year: int | None
    arxiv: str | None
    implements: str
    summary: str
    status: Literal["standard", "published"]

    @property
    def module(self) -> str:
        return self.implements.partition(":")[0]


def _row(values: Any, where: str) -> Row:
    """A row from plain values; `ConfigError` lists everything that is wrong with them."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is not a mapping")
    names = [field.name for field in fields(Row)]
    problems = [
        Problem(f"{where}.{key}", "unknown key", did_you_mean(key, names)) for key in values if key not in names
    ]
    problems += [Problem(f"{where}.{name}", "is required and absent") for name in names if name not in values]
    for name, pattern in PATTERNS.items():
        if name in values and not re.fullmatch(pattern, str(values[name])):
            problems.append(Problem(f"{where}.{name}", f"{values[name]!r} is not of the form {pattern}"))
    raise_problems(problems, "the catalog is not valid")
    return Row(**values)


@cache
def rows() -> tuple[Row, ...]:
    """Every method, pomona's own first. Raises `ConfigError` when a catalog is not valid or two share a slug."""
    files = [OWN, *(_file_of(point.name, point.value) for point in entry_points(group=ENTRY_POINTS))]
    found: dict[str, Row] = {}
    for file in files:
        for index, values in enumerate(_list(file)):
            row = _row(values, f"{file}: row {index + 1}")
            if normal(row.slug) in found:
                raise ConfigError(f"two methods are called {row.slug!r}", where=str(file), do="rename one of them")
            found[normal(row.slug)] = row
    return tuple(found.values())


def find(slug: str, kind: str | None = None) -> Row:
    """The row of a method; `-` and `_` are the same. Raises `ConfigError` with the nearest names."""
    known = {normal(row.slug): row for row in rows()}
    row = known.get(normal(slug))
    if row is None:
        names = [row.slug for row in known.values() if kind in (None, row.kind)]
        raise ConfigError(f"unknown {kind or 'method'} {slug!r}", do=did_you_mean(slug, names))
    if kind not in (None, row.kind):
        names = [row.slug for row in known.values() if row.kind == kind]
        raise ConfigError(f"{row.slug!r} is of kind {row.kind}, not {kind}", do=did_you_mean(slug, names))
    return row


def config_class(kind: str, slug: str) -> type[MethodConfig]:
    """The class of a method's parameters: the one `MethodConfig` with that slug in the method's module.

    This imports the module. Raises `ConfigError` when the slug is unknown or the module holds no such class.
    """
    from pomona.ground.config import MethodConfig

    row = find(slug, kind)
    module = importlib.import_module(row.module)
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


def _list(file: Path) -> list[Any]:
    value = read_yaml(file).value
    if not isinstance(value, list):
        raise ConfigError(f"{file} is not a list of methods")
    return value
