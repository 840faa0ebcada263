"""Renaming keeps what code does: only certain names, every occurrence, and nothing else."""

from __future__ import annotations

import ast
import io
import tokenize
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.examination.renaming import names_of, rename
from pomona.ground.errors import DataError

CODE = '''
import math
LIMIT = 3
def outer(values, scale=2, *rest, key=None, **more):
    """Sum of values, scaled by scale."""  # values stay here
    total = 0
    for index, value in enumerate(values):
        total += value * scale + math.floor(index) * LIMIT
    def inner(extra):
        nonlocal total
        total += extra
        return total
    squares = [value ** 2 for value in values if (half := value / 2) > 0]
    shown = f"{shownin}" if (shownin := len(rest)) else "values"
    try:
        result = inner(extra=half) if squares else inner(1)
    except ValueError as problem:
        result = repr(problem)
    more["values"] = list(more.values())
    return {"total": total, "values": result, "shown": shown, "squares": (lambda x: [x, x])(squares)}
'''


def run(code: str, *given: Any) -> Any:
    """What the function of the code gives."""
    scope: dict[str, Any] = {}
    exec(code, scope)
    return scope["outer"](*given)


def test_which_names() -> None:
    """Catches globals, builtins, imports, attributes, keywords of calls, names in f-strings and of functions."""
    found = names_of(CODE).places
    assert set(found) == {
        *("values", "scale", "rest", "key", "more", "total", "index", "value", "squares", "half", "shown", "result"),
        *("problem", "x"),
    }
    assert len(found["values"]) == 3 and len(found["total"]) == 6, "not in strings, comments, or behind a dot"


names = sorted(names_of(CODE).places)


@given(st.lists(st.sampled_from(names), unique=True, min_size=1), st.randoms())
def test_the_code_does_the_same(chosen: list[str], draw: Any) -> None:
    """Catches an occurrence that is left behind, a collision, and a token that should have stayed."""
    mapping = {name: f"fresh_{place}_{draw.randrange(99)}" for place, name in enumerate(chosen)}
    renamed = rename(CODE, mapping)
    ast.parse(renamed)
    assert run(renamed, [3, 4, 5], 3, 1, 2) == run(CODE, [3, 4, 5], 3, 1, 2)
    back = rename(renamed, {new: old for old, new in mapping.items()})
    assert back == CODE, "renamed back, it is the same text"
    assert kinds(renamed) == kinds(CODE)


def kinds(code: str) -> list[tuple[int, str]]:
    """Tokens without names."""
    found = tokenize.generate_tokens(io.StringIO(code).readline)
    return [(token.type, "" if token.type == tokenize.NAME else token.string) for token in found]


def test_names_can_be_exchanged() -> None:
    """Catches names that are replaced one after the other. A name that is there is refused all the same."""
    with pytest.raises(DataError, match="cannot be a new name"):
        rename("def f(a, b):\n    return a - b", {"a": "b", "b": "a"})
    assert rename("def f(a, b):\n    return a - b", {"a": "c", "b": "d"}) == "def f(c, d):\n    return c - d"


@pytest.mark.parametrize("new", ["for", "len", "2x", "a b", "math", "LIMIT", "values", "match", "__x"])
def test_new_names_that_would_change_the_code(new: str) -> None:
    """Catches a new name that is a keyword, a builtin, no identifier, or in use."""
    with pytest.raises(DataError, match="cannot be a new name"):
        rename(CODE, {"total": new})


def test_code_that_looks_at_its_names() -> None:
    """Catches renaming under `locals()` and its like; and text that is no code."""
    assert names_of("def f(a):\n    return locals()['a']").places == {}
    assert names_of("def f(a):\n    match a:\n        case {'k': b}:\n            return b").places.keys() == {"a"}
    assert names_of("class A:\n    x = 1\n    def f(self, x):\n        return x").places == {}
    with pytest.raises(DataError, match="not Python code"):
        names_of("def f(:")
    with pytest.raises(DataError, match="two names would become one"):
        rename("def f(a, b):\n    return a - b", {"a": "c", "b": "c"})
