"""Print a declaration as the Python source that makes it: settings that are the usual ones are left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from pomona.anatomy.declaration import Shape

WIDTH = 120
INDENT = "    "


def source_of(shape: Shape) -> str:
    """Source of a module that declares and registers `shape`."""
    used: dict[str, set[str]] = {}
    for kind in _classes(shape):
        used.setdefault(kind.__module__, set()).add(kind.__name__)
    imports = [_import(module, sorted(names)) for module, names in sorted(used.items())]
    name = "".join(letter if letter.isalnum() else "_" for letter in shape.name.upper())
    lines = ["from pomona import anatomy", *imports, "", f"{name} = {_source(shape, 0)}", f"anatomy.register({name})"]
    return "\n".join(lines) + "\n"


def _import(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    return line if len(line) <= WIDTH else _call(f"from {module} import ", names, 0)


def _source(value: Any, depth: int) -> str:
    if is_dataclass(value):
        parts = [f"{name}={_source(each, depth + 1)}" for name, each in _stated(value)]
        return _call(type(value).__name__, parts, depth)
    if isinstance(value, tuple) and value:
        parts = [_source(each, depth + 1) for each in value]
        return _call("", parts if parts[1:] else [f"{parts[0]},"], depth)
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _call(name: str, parts: list[str], depth: int) -> str:
    """A call on one line where it fits, else with a line for each part."""
    line = f"{name}({', '.join(parts)})"
    if len(line) + len(INDENT) * depth <= WIDTH and "\n" not in line:
        return line
    lines = [f"{INDENT * (depth + 1)}{part.removesuffix(',')}," for part in parts]
    return "\n".join([f"{name}(", *lines, f"{INDENT * depth})"])


def _stated(value: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a declaration that are not the usual ones."""
    for one in fields(value):
        if getattr(value, one.name) != _default(one):
            yield one.name, getattr(value, one.name)


def _default(one: Field[Any]) -> Any:
    return one.default_factory() if one.default_factory is not MISSING else one.default


def _classes(value: Any) -> Iterator[type]:
    """The classes that the source uses."""
    if is_dataclass(value):
        yield type(value)
        value = tuple(each for _, each in _stated(value))
    if isinstance(value, tuple):
        for each in value:
            yield from _classes(each)
