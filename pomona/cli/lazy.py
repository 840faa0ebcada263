"""Commands that are built when they are called: the list of them needs only the first line of each definition."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from pomona.catalog import source_file

BUILDERS: dict[str, Callable[[], Callable[..., None]]] = {}
"""How to make the function of a command, by its name."""


class LazyGroup(TyperGroup):
    """A group whose stage commands are listed by a stand-in and built from the stage when they are called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name in BUILDERS:
            self.commands[name] = _build(name)
        return super().resolve_command(ctx, args)


def first_line(target: str) -> str:
    """The first line of the docstring of `module:Class`, read from the source text."""
    module, _, name = target.partition(":")
    file = source_file(module)
    if file is not None:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def _build(name: str) -> Any:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    settings = {
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": ["-h", "--help"],
    }
    app.command(name, context_settings=settings)(BUILDERS[name]())
    return typer.main.get_command(app)
