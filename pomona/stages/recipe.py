"""Recipes: an ordered list of stages, from YAML or from Python, with every problem located in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, ValidationError

from pomona.ground.config import Config, problems_of
from pomona.ground.errors import ConfigError, Problem, did_you_mean, raise_problems
from pomona.ground.yaml import YamlDocument, parse_scalar, read_yaml
from pomona.stages.base import Stage
from pomona.stages.verbs import VERBS, stage_class

SHIPPED = Path(__file__).parent.parent / "recipes"


class Header(Config):
    """Everything of a recipe but its stages."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Its runs lie in the folder of this name."""
    description: str = ""
    """What it does and why."""
    hardware: str = ""
    """What the expected minutes and metric hold for."""
    minutes: float | None = None
    """Expected minutes on that hardware."""
    expected: str = ""
    """Expected metric: a run that is far off should be noticed."""
    seed: NonNegativeInt = 0
    """Seed of every stage that has none of its own."""


@dataclass(frozen=True)
class Recipe:
    """A recipe whose values are valid.

    Attributes:
        header: name, description, seed.
        stages: in order.
        labels: of the stages, unique.
        raw: the plain values it was made from, overrides included.
        source: locates problems.
    """

    header: Header
    stages: tuple[Stage, ...]
    labels: tuple[str, ...]
    raw: Mapping[str, Any]
    source: Source

    @property
    def name(self) -> str:
        return self.header.name

    def prefix(self, index: int) -> str:
        """Dotted path of a stage, as problems name it."""
        return f"stages.{index}.{self.stages[index].verb}"


class Source:
    """Where the values of a recipe come from: lines of a file, or words of the command line."""

    def __init__(self, document: YamlDocument | None, overrides: Mapping[str, str] | None = None) -> None:
        self.document, self.overrides = document, dict(overrides or {})

    def locate(self, problem: Problem) -> Problem:
        """The same problem with the file and line, or the `--set`, that it comes from."""
        parts = problem.where.split(".")
        for length in range(len(parts), 0, -1):
            if (word := self.overrides.get(".".join(parts[:length]))) is not None:
                return Problem(f"--set {word} ({problem.where})", problem.what, problem.do)
        if self.document is None:
            return problem
        path = tuple(int(part) if part.isdigit() else part for part in parts)
        return Problem(self.document.where(path), problem.what, problem.do)

    def refuse(self, problems: Sequence[Problem], what: str) -> None:
        """Raise one `ConfigError` with all of them; return quietly when there are none."""
        raise_problems(map(self.locate, problems), what)


def load(recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        recipe: a file, the name of a shipped recipe, or plain values.
        overrides: `a.b=c` each; `a` is a stage's label or a key of the recipe, `c` is read as YAML.

    Raises:
        ConfigError: lists every problem with file and line.
    """
    if isinstance(recipe, Recipe):
        if not overrides:
            return recipe
        recipe = recipe.raw
    if isinstance(recipe, Mapping):
        document, values, name = None, recipe, "the recipe"
    else:
        path = find(recipe)
        document = read_yaml(path)
        values, name = document.value, document.name
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} is not a recipe", needs="a mapping with `name` and `stages`")
    raw = _copy(values)
    words = _override(raw, overrides)
    return _validate(raw, Source(document, words), name)


def find(recipe: str | Path) -> Path:
    """The file of a recipe: itself, or the shipped one of that name."""
    path = Path(recipe)
    if path.is_file():
        return path
    known = shipped()
    if str(recipe) in known:
        return known[str(recipe)]
    raise ConfigError(
        f"there is no recipe {str(recipe)!r}", needs="a file or a name", do=did_you_mean(path.stem, known)
    )


def shipped() -> dict[str, Path]:
    """The recipes that come with pomona, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def _validate(raw: dict[str, Any], source: Source, name: str) -> Recipe:
    problems: list[Problem] = []
    header: Header | None = None
    try:
        header = Header.model_validate({key: value for key, value in raw.items() if key != "stages"})
    except ValidationError as error:
        known = [*Header.model_fields, "stages"]
        for problem in problems_of(error, Header):
            do = did_you_mean(problem.where, known) if problem.what.startswith("unknown key") else problem.do
            problems.append(Problem(problem.where, problem.what, do))
    entries = raw.get("stages")
    if not isinstance(entries, list) or not entries:
        problems.append(Problem("stages", "is required: a list with at least one stage"))
        entries = []
    stages: list[Stage] = []
    for index, entry in enumerate(entries):
        where = f"stages.{index}"
        verb, values = entry_of(entry)
        if verb is None:
            problems.append(Problem(where, "a stage is a verb, or one `verb: values`", f"verbs: {', '.join(VERBS)}"))
        elif verb not in VERBS:
            problems.append(Problem(f"{where}.{verb}", f"unknown stage {verb!r}", did_you_mean(verb, VERBS)))
        else:
            try:
                stages.append(stage_class(verb).model_validate(values))
            except ValidationError as error:
                problems += flat_paths(problems_of(error, stage_class(verb), f"{where}.{verb}"), verb, values)
    labels = _labels(entries)
    for index, label in enumerate(labels):
        if label in labels[:index]:
            problems.append(Problem(f"stages.{index}", f"a second stage is called {label!r}", "give it another `name`"))
    source.refuse(problems, f"{name} is not valid")
    assert header is not None
    return Recipe(header, tuple(stages), tuple(labels), raw, source)


def flat_paths(problems: Sequence[Problem], verb: str, values: Any) -> list[Problem]:
    """Name parameters of a method by the key that the user wrote: `grow.factor`, not `grow.method.factor`."""
    flat = stage_class(verb).flat
    if flat is None or (isinstance(values, Mapping) and isinstance(values.get(flat), Mapping)):
        return list(problems)
    mended = []
    for problem in problems:
        where = problem.where.replace(f"{verb}.{flat}.", f"{verb}.").replace(f"{verb}.method", f"{verb}.{flat}")
        mended.append(Problem(where, problem.what, problem.do))
    return mended


def entry_of(entry: Any) -> tuple[str | None, Any]:
    """The verb of a list entry and its values: `examine`, `examine:`, `corpus: env:docs`, `grow: {...}`."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((verb, values),) = entry.items()
        return str(verb), {} if values is None else values
    return None, None


def _labels(entries: Sequence[Any]) -> list[str]:
    """Names of the stages: as given, else the verb, counted from the second on (`continue`, `continue-2`)."""
    labels: list[str] = []
    seen: dict[str, int] = {}
    for entry in entries:
        verb, values = entry_of(entry)
        given = values.get("name") if isinstance(values, Mapping) else None
        if given is not None:
            labels.append(str(given))
            continue
        count = seen[str(verb)] = seen.get(str(verb), 0) + 1
        labels.append(f"{verb}" if count == 1 else f"{verb}-{count}")
    return labels


def _override(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """Apply `a.b=c` to plain values. Returns the words by the dotted path that they set."""
    words: dict[str, str] = {}
    problems: list[Problem] = []
    entries = raw.get("stages")
    labels = _labels(entries) if isinstance(entries, list) else []
    for word in overrides:
        path, equals, text = word.partition("=")
        head, *keys = path.strip().split(".")
        if not equals or not head:
            problems.append(Problem(f"--set {word}", "is not of the form a.b=c"))
            continue
        value = parse_scalar(text)
        if not keys and (head in Header.model_fields or head not in labels):
            if head not in Header.model_fields:
                do = did_you_mean(head, [*Header.model_fields, *labels])
                problems.append(Problem(f"--set {word}", f"neither a stage nor a key is called {head!r}", do))
            raw[head] = value
            words[head] = word
            continue
        if head not in labels:
            problems.append(Problem(f"--set {word}", f"no stage is called {head!r}", did_you_mean(head, labels)))
            continue
        index = labels.index(head)
        assert isinstance(entries, list)
        verb, values = entry_of(entries[index])
        entries[index] = {str(verb): _set(values, keys, value)}
        words[".".join([f"stages.{index}.{verb}", *keys])] = word
    raise_problems(problems, "--set cannot be applied")
    return words


def _set(values: Any, keys: Sequence[str], value: Any) -> Any:
    """`values` with `value` at `keys`. A plain word on the way is the name of a method and stays so."""
    if not keys:
        return value
    here = {"method": values} if isinstance(values, str) else dict(values or {})
    here[keys[0]] = _set(here.get(keys[0]), keys[1:], value)
    return here


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value
