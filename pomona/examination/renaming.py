"""Rename local variables of Python code so that it means the same.

A name is taken for renameable where that is certain: in every scope of the code it is a parameter or a local variable
(or one of an enclosing function), and nowhere a global, a builtin, an import, or a name of a class or module; it is no
keyword of any call, and stands in no formatted string and no pattern. Then all of its occurrences as a variable are
renamed at once. Attributes, strings and comments are other tokens, and stay.
"""

from __future__ import annotations

import ast
import builtins
import io
import keyword
import symtable
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pomona.ground.errors import DataError

LOOKING_INSIDE = {"locals", "vars", "eval", "exec", "globals", "dir", "compile"}
"""Calls that see names of variables: code with them is left alone."""
TAKEN = {*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "self", "cls"}


class Place(NamedTuple):
    """Where a name stands: line from 1, columns from 0, in characters."""

    line: int
    start: int
    end: int


@dataclass(frozen=True)
class Names:
    """The names of some code.

    Attributes:
        places: of each renameable name, in order.
        taken: names that a new one must not be.
    """

    places: Mapping[str, tuple[Place, ...]]
    taken: frozenset[str]


def names_of(code: str) -> Names:
    """Which names can be renamed, and where they stand.

    Raises:
        DataError: the code is not Python.
    """
    try:
        tree = ast.parse(code)
        tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
        table = symtable.symtable(code, "code", "exec")
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError) as error:
        raise DataError("the text is not Python code", found=str(error).partition("\n")[0]) from error
    variables = list(_without_attributes(tokens))
    every = {token.string for token in variables}
    taken = frozenset(every | TAKEN)
    if every & LOOKING_INSIDE:
        return Names({}, taken)
    able, fixed = _by_scope(table)
    able -= fixed | set(_elsewhere(tree)) | TAKEN
    able = {name for name in able if not name.startswith("__")}
    places: dict[str, list[Place]] = {name: [] for name in sorted(able)}
    for token in variables:
        if token.string in able:
            places[token.string].append(Place(token.start[0], token.start[1], token.end[1]))
    return Names({name: tuple(found) for name, found in places.items() if found}, taken)


def rename(code: str, mapping: Mapping[str, str], names: Names | None = None) -> str:
    """The code with names replaced, all of them at once.

    Args:
        mapping: renameable name -> new name.
        names: of the code, where they are known already.

    Raises:
        DataError: a name cannot be renamed, or a new one is no identifier, is taken, or is given twice.

    Example:
        >>> rename("def f(a, b):\\n    return a.b + b", {"b": "total"})
        'def f(a, total):\\n    return a.b + total'
    """
    names = names or names_of(code)
    for old, new in mapping.items():
        if old not in names.places:
            raise DataError(f"{old!r} cannot be renamed", found=", ".join(names.places) or "no local variable")
        if not is_new(new, names):
            raise DataError(f"{new!r} cannot be a new name", needs="an identifier that the code does not use")
    if len(set(mapping.values())) < len(mapping):
        raise DataError("two names would become one", found=", ".join(mapping.values()))
    lines = code.splitlines(keepends=True)
    edits = sorted(((place, new) for old, new in mapping.items() for place in names.places[old]), reverse=True)
    for place, new in edits:
        line = lines[place.line - 1]
        lines[place.line - 1] = line[: place.start] + new + line[place.end :]
    return "".join(lines)


def replace_once(code: str, place: Place, word: str) -> str:
    """The code with one occurrence of a name replaced by any word; it may be no code any more."""
    lines = code.splitlines(keepends=True)
    line = lines[place.line - 1]
    lines[place.line - 1] = line[: place.start] + word + line[place.end :]
    return "".join(lines)


def is_new(word: str, names: Names) -> bool:
    """Whether a word can be a new name in the code."""
    return word.isidentifier() and word not in names.taken and not word.startswith("__")


def _without_attributes(tokens: Iterable[tokenize.TokenInfo]) -> Iterator[tokenize.TokenInfo]:
    """The tokens that are names, and do not follow a dot."""
    before = ""
    for token in tokens:
        if token.type == tokenize.NAME and before != ".":
            yield token
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token.string


def _by_scope(table: symtable.SymbolTable) -> tuple[set[str], set[str]]:
    """Names that are local in some function, and names that are something else in some scope."""
    able, fixed = set(), set()
    inside = table.get_type() == "function"
    for symbol in table.get_symbols():
        name = symbol.get_name()
        plain = symbol.is_parameter() or symbol.is_local() or symbol.is_free()
        if inside and plain and not (symbol.is_imported() or symbol.is_global() or symbol.is_namespace()):
            able.add(name)
        else:
            fixed.add(name)
    for child in table.get_children():
        more, others = _by_scope(child)
        able |= more
        fixed |= others
    return able, fixed


def _elsewhere(tree: ast.AST) -> Iterator[str]:
    """Names that also stand where they are not a variable's token, or where tokens do not tell."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.JoinedStr):
            yield from (each.id for each in ast.walk(node) if isinstance(each, ast.Name))
        elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest
        elif isinstance(node, ast.MatchClass):
            yield from node.kwd_attrs
        elif isinstance(node, ast.Global):
            yield from node.names
