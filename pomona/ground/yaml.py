"""YAML with line numbers: what a recipe says, and where it says it.

A strict reader for files that people write. It constructs plain values only (no tags that build objects), refuses
duplicate keys, and bounds size, depth and what aliases may expand to. Scalars follow YAML 1.2: `1e-3` is a number,
`no` and `on` are words, a date is a word; digits may be grouped as in `1_000_000`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.resolver import Resolver

from pomona.ground.errors import ConfigError

MAX_BYTES = 2**20
"""Largest file that is read."""
MAX_NODES = 100_000
"""Most values a file may stand for once its aliases are expanded."""
MAX_DEPTH = 40
"""Deepest nesting."""

_Fast: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

Key = str | int
YamlPath = tuple[Key, ...]


@dataclass(frozen=True)
class YamlDocument:
    """A parsed file: its value, and the line of every key and item."""

    name: str
    value: Any
    lines: dict[YamlPath, int] = field(repr=False)

    def line(self, path: Sequence[Key]) -> int | None:
        """The line (from 1) of the value at `path`, or of the nearest one above it; None where nothing is known."""
        for length in range(len(path), -1, -1):
            if (line := self.lines.get(tuple(path[:length]))) is not None:
                return line
        return None

    def where(self, path: Sequence[Key]) -> str:
        """`recipe.yaml:12 stages.3.grow.factor`, as every problem of a recipe is located."""
        line = self.line(path)
        return f"{self.name}{'' if line is None else f':{line}'} {'.'.join(map(str, path))}".rstrip()


def read_yaml(path: Path) -> YamlDocument:
    """Read a YAML file. Raises `ConfigError` with file and line when it cannot be read or is not valid."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(
                f"{path} is too large to be a recipe", needs=f"at most {MAX_BYTES} bytes", found=str(size)
            )
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}", found=error.strerror or str(error), do="check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8", found=f"byte {error.start}", do="save it as UTF-8") from error
    return parse_yaml(text, path.name)


def parse_yaml(text: str, name: str) -> YamlDocument:
    """Parse one YAML document; `name` is used in messages. Raises `ConfigError` with the line."""
    try:
        return _parse(text, name, _FastLoader)
    except ConfigError:
        return _parse(text, name, _Loader)  # to say it better


def _parse(text: str, name: str, parser: type[_Loader | _FastLoader]) -> YamlDocument:
    loader = None
    try:
        loader = parser(text)
        root = loader.get_single_node()
        lines: dict[YamlPath, int] = {}
        value = None if root is None else _Builder(loader, lines, name).build(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}, column {mark.column + 1}" if mark else name
        raise ConfigError(f"{place}: not valid YAML", found=error.problem or error.context) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML", found=str(error)) from error
    finally:
        if loader is not None:
            loader.dispose()
    return YamlDocument(name, value, lines)


def front_matter(text: str) -> dict[str, Any]:
    """The mapping between two lines `---` at the beginning of a Markdown text; empty where there is none to be read."""
    begin, _, rest = text.partition("---\n")
    block, end, _ = rest.partition("\n---")
    if begin.strip() or not end:
        return {}
    try:
        value = parse_yaml(block, "front matter").value
    except ConfigError:
        return {}
    return value if isinstance(value, dict) else {}


def parse_scalar(text: str) -> Any:
    """The value of a word on a command line, read as it would be in a recipe: `3`, `1e-3`, `true`, `[1, 2]`, `name`.

    Text that is not valid YAML stands for itself.
    """
    try:
        return parse_yaml(text, "value").value
    except ConfigError:
        return text


class _Yaml12(Composer, Resolver):
    """YAML 1.2 scalars, and a bound on depth."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own spelling)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[attr-defined]  # of the parser
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Loader(_Yaml12, yaml.SafeLoader):
    """PyYAML's own parser: slow, and its errors name the character that is wrong."""


class _FastLoader(_Yaml12, _Fast):  # type: ignore[misc]
    """libyaml's parser below PyYAML's composer: a tenth of the time."""

    def __init__(self, text: str) -> None:
        _Fast.__init__(self, text)
        Composer.__init__(self)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


class _Builder:
    """Builds plain values from nodes and notes their lines."""

    def __init__(self, loader: _Loader | _FastLoader, lines: dict[YamlPath, int], name: str) -> None:
        self.loader, self.lines, self.name = loader, lines, name
        self.nodes = 0
        self.open: set[int] = set()

    def build(self, node: yaml.Node, path: YamlPath) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ConfigError(f"{self.name} expands to more than {MAX_NODES} values", do="use fewer aliases")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self.open:
            raise yaml.MarkedYAMLError(problem="an alias that contains itself", problem_mark=node.start_mark)
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                self._refuse_tag(node, "seq")
                return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)
            self._refuse_tag(node, "map")
            return self._mapping(node, path)
        finally:
            self.open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: YamlPath) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged = {**self._merge(value_node, path), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key_node.start_mark)
            key = str(key_node.value)
            if key in own:
                first = self.lines[(*path, key)]
                raise ConfigError(
                    f"{self.name}:{line} {'.'.join(map(str, (*path, key)))}: the key {key!r} appears twice",
                    found=f"first on line {first}",
                    do="keep one of them",
                )
            self.lines[(*path, key)] = line
            own[key] = self.build(value_node, (*path, key))
        return {**merged, **own}

    def _merge(self, node: yaml.Node, path: YamlPath) -> dict[str, Any]:
        """The mapping (or list of mappings, earlier ones winning) that `<<` brings in."""
        values = self.build(node, (*path, "<<"))
        merged: dict[str, Any] = {}
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, dict):
                raise yaml.MarkedYAMLError(problem="`<<` needs a mapping", problem_mark=node.start_mark)
            merged = {**value, **merged}
        return merged

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        text = str(node.value)
        if kind in ("str", "merge"):
            return text
        try:
            if kind == "int":
                return int(text.replace("_", ""))
            if kind in ("bool", "null", "float"):
                return self.loader.construct_object(node)
        except (ValueError, KeyError) as error:
            raise yaml.MarkedYAMLError(problem=f"not a valid {kind}", problem_mark=node.start_mark) from error
        raise yaml.MarkedYAMLError(problem=f"the tag {node.tag!r} is not allowed here", problem_mark=node.start_mark)

    def _refuse_tag(self, node: yaml.Node, expected: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{expected}":
            raise yaml.MarkedYAMLError(
                problem=f"the tag {node.tag!r} is not allowed here", problem_mark=node.start_mark
            )
