"""Whose code an experiment measures.

Stages are content-addressed by what is configured. In an experiment the code of their methods counts as well: what an
older version of a method has made is not taken for the work of this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pomona.catalog.fingerprint import fingerprint
from pomona.ground.config import Config, MethodConfig
from pomona.stages.base import Stage


def methods_in(value: Any) -> Iterator[MethodConfig]:
    """Every method that a configuration names, those of its parts too."""
    if isinstance(value, MethodConfig):
        yield value
    if isinstance(value, Config):
        value = dict(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from methods_in(each)


def modules_of(stage: Stage) -> set[str]:
    """The modules of the methods that a stage uses."""
    return {type(method).__module__ for method in methods_in(stage)}


def compared(arms: Mapping[str, Sequence[Stage]]) -> set[str]:
    """Modules of the methods that arms are compared by: those that not all arms use alike.

    What all have in common, such as the optimizer that trains every arm, is the ground that they stand on.
    """
    used = [list(methods_in(list(stages))) for stages in arms.values()]
    common = [method for method in used[0] if all(method in methods for methods in used)] if len(used) > 1 else []
    return {type(method).__module__ for methods in used for method in methods if method not in common}


def code_of(stage: Stage) -> str:
    """The fingerprint of a stage's methods as they are in this process; empty where it has none."""
    modules = modules_of(stage)
    return _fingerprint(tuple(sorted(modules))) if modules else ""


@cache
def _fingerprint(modules: tuple[str, ...]) -> str:
    return fingerprint(modules)
