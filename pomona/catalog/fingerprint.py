"""Which code a measurement is about, as one hash: results of code that has changed since are stale.

Counted are the modules of methods, those of their own rooms that they reach by imports, and the card: what they
compute, without comments, docstrings and layout. The substrate (anatomy, data, engine) is not: a change there that
alters numbers has to be shown where it is made, and would otherwise make every result stale at every commit.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from pomona.catalog.listing import source_file

SUBSTRATE = ("ground", "anatomy", "data", "engine", "stages", "catalog", "evidence", "cli")
PLANTED = "pomona.evidence.planted"
"""What tools are tried on is made by modules of this name; other data changes with the arms of a card."""


def fingerprint(modules: Iterable[str]) -> str:
    """SHA-256 (first 16 hexadecimal digits) of the code of `modules` and of what they import from methods' rooms."""
    digest = hashlib.sha256()
    for name in sorted(reached(modules)):
        digest.update(f"{name}\n{_read(name)[0]}\n".encode())
    return digest.hexdigest()[:16]


def reached(modules: Iterable[str]) -> set[str]:
    """`modules` and every module of their own package, outside the substrate, that they import, directly or not."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found and source_file(name) is not None:
            found.add(name)
            waiting += _read(name)[1]
    return found


def _read(name: str) -> tuple[str, tuple[str, ...]]:
    """A module's code and what it imports; a file that has not changed is parsed once."""
    file = source_file(name)
    assert file is not None
    stat = file.stat()
    return _parsed(name, file, stat.st_mtime_ns, stat.st_size)


@cache
def _parsed(name: str, file: Path, changed: int, size: int) -> tuple[str, tuple[str, ...]]:
    return _code(name), tuple(_imports(name))


def _imports(name: str) -> Iterator[str]:
    """Modules that a module imports when it runs, those of the substrate and of other packages left out."""
    package = name.partition(".")[0]
    for node in _running(_tree(name)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for each in names:
            top, *rest = each.split(".")
            if top == package and rest and not _is_substrate(each) and _is_module(each):
                yield each


def _is_substrate(name: str) -> bool:
    top, room, *_ = name.split(".")
    return top == "pomona" and room in SUBSTRATE and not name.startswith(PLANTED)


def _is_module(name: str) -> bool:
    """Whether the name is a file of its own, not a name inside a package."""
    file = source_file(name)
    return file is not None and (file.stem == name.rpartition(".")[2] or file.parent.name == name.rpartition(".")[2])


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only the type checker sees."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _running(child)


def _tree(name: str) -> ast.Module:
    file = source_file(name)
    assert file is not None
    return ast.parse(file.read_text(encoding="utf-8"))


def _code(name: str) -> str:
    """A module without comments, layout and strings that stand alone."""
    tree = _tree(name)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                each for each in body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            ] or [ast.Pass()]
    return ast.dump(tree)
