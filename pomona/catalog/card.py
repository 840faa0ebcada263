"""A method's card: the docstring of its module, read from the source text without importing it."""

from __future__ import annotations

import ast
import inspect

from pomona.catalog.listing import Row, source_file
from pomona.ground.errors import ConfigError


def card(row: Row) -> str:
    """The card of a method. Raises `ConfigError` when its module or the card is missing."""
    file = source_file(row.module)
    if file is None:
        raise ConfigError(f"the module of {row.slug!r} is missing", found=row.module)
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if text is None:
        raise ConfigError(f"{file} has no card", needs="a docstring at the top of the module")
    return text


def first_sentence(documented: object) -> str:
    """The first line of a docstring, for lists and help texts."""
    return (inspect.getdoc(documented) or "").partition("\n")[0].strip()
