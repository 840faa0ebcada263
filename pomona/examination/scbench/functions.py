"""Functions of Python's standard library with what their docstrings say: text for questions, without a download."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

MODULES = ("bisect", "calendar", "colorsys", "fnmatch", "heapq", "shlex", "statistics", "textwrap", "random", "shutil")
LONGEST = 1500
"""Characters of a function."""


@dataclass(frozen=True)
class Function:
    """One function: its module, its name, the first line of its docstring, and its source."""

    module: str
    name: str
    description: str
    code: str


@cache
def functions() -> tuple[Function, ...]:
    """Every function of `MODULES` with a docstring, in the order of the source, none named or described twice."""
    found: dict[str, Function] = {}
    described = set()
    for module in MODULES:
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef):
                continue
            lines = (ast.get_docstring(node) or "").splitlines()
            code = ast.get_source_segment(source, node) or ""
            if lines and len(code) <= LONGEST and node.name not in found and lines[0] not in described:
                described.add(lines[0])
                found[node.name] = Function(module, node.name, lines[0], code)
    return tuple(found.values())
