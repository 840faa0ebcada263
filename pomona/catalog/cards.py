"""What a method's file says: its card and its parameters, read from the source text without importing it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from pomona.catalog.listing import Row, module_of, normal, source_file
from pomona.ground.errors import ConfigError


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method: its name, the type and default as they are written, and its description."""

    name: str
    type: str
    default: str
    description: str


def card(row: Row) -> str:
    """The docstring of a method's module. Raises `ConfigError` for a planned method, or when module or card miss."""
    file, module = _module(module_of(row))
    text = ast.get_docstring(module)
    if text is None:
        raise ConfigError(f"{file} has no card", needs="a docstring at the top of the module")
    return text


def parameters(row: Row) -> list[Parameter]:
    """The parameters of a method, those of the classes it inherits from first."""
    _, module = _module(module_of(row))
    for node in module.body:
        if isinstance(node, ast.ClassDef) and normal(_slug(node)) == normal(row.slug):
            found = {parameter.name: parameter for parameter in _fields(node, module)}
            found.pop("method", None)
            return list(found.values())
    return []


def _module(name: str) -> tuple[Path, ast.Module]:
    file = source_file(name)
    if file is None:
        raise ConfigError(f"the module {name!r} is missing", do="mend the catalog, or install what it belongs to")
    return file, ast.parse(file.read_text(encoding="utf-8"))


def _slug(node: ast.ClassDef) -> str:
    """The default of the field `method`, empty for classes without one."""
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "method":
            return str(ast.literal_eval(statement.value)) if isinstance(statement.value, ast.Constant) else ""
    return ""


def _fields(node: ast.ClassDef, module: ast.Module) -> list[Parameter]:
    """Annotated fields with the strings below them, after those of base classes that pomona's floors define."""
    found: list[Parameter] = []
    for base in node.bases:
        parent = _class_named(ast.unparse(base), module)
        if parent is not None:
            found += _fields(*parent)
    for statement, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.annotation).startswith("ClassVar"):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            found.append(
                Parameter(
                    ast.unparse(statement.target),
                    ast.unparse(statement.annotation),
                    _default(statement.value),
                    " ".join(str(text).split()),
                )
            )
    return found


def _default(value: ast.expr | None) -> str:
    """A default as it is written; of `Field(...)`, its `default`."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        value = given.get("default", value.args[0] if value.args else None)
    return "" if value is None else ast.unparse(value)


def _class_named(name: str, module: ast.Module) -> tuple[ast.ClassDef, ast.Module] | None:
    """A class of this module, or of the module that it is imported from; None outside of methods' rooms."""
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, module
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            module_name = node.module or ""
            if not module_name.startswith("pomona.") or module_name.startswith("pomona.ground"):
                return None
            file = source_file(module_name)
            return None if file is None else _class_named(name, ast.parse(file.read_text(encoding="utf-8")))
    return None
