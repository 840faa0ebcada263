"""What a family looks like is known in one room: no other code decides by a family's name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pomona
from pomona.anatomy.tiny import TINY

PACKAGE = Path(pomona.__file__).parent
NAMES = {tiny.model_type for tiny in TINY.values()}
MAKERS = ("anatomy", "evidence")
"""Rooms that may name one: the one that knows families, and the one that says which models it trains."""
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file.relative_to(PACKAGE).parts[0] not in MAKERS]


def names_in(source: str) -> set[str]:
    """Strings of the code that are the name of a family, those in prose left out."""
    found = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    return {value for value in found if isinstance(value, str) and value in NAMES}


def test_the_search_finds_names() -> None:
    """Catches a search that would pass whatever the code says."""
    assert names_in("if model.config.model_type in ('gpt2', 'llama'): pass") == {"gpt2", "llama"}
    assert names_in('"""llama and gpt2 are families."""') == set()
    assert len(FILES) > 100 and len(NAMES) > 30


@pytest.mark.parametrize("room", sorted({file.relative_to(PACKAGE).parts[0] for file in FILES}))
def test_no_family_is_named(room: str) -> None:
    """Catches a method that asks for a name instead of a capability. Its own name may be that of a family, too."""
    found = {}
    for file in FILES:
        if file.relative_to(PACKAGE).parts[0] == room:
            found[str(file)] = names_in(file.read_text(encoding="utf-8")) - {file.stem.replace("_", "-")}
    assert {file: names for file, names in found.items() if names} == {}
