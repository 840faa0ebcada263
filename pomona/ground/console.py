"""What pomona says to a person: one console on standard error, results on standard output."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

from pomona.ground.ranks import is_main

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


@cache
def console() -> Console:
    """The console for progress and remarks (standard error). Of several processes one speaks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=not is_main())


@cache
def output() -> Console:
    """The console for results that a pipe may want (standard output).

    A pipe or a file has no width of its own; the usual 80 columns would cut tables, so it gets 120 unless COLUMNS says
    otherwise.
    """
    from rich.console import Console

    of_its_own = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if of_its_own else 120, quiet=not is_main())


def say(message: str) -> None:
    """One line to the user, rich markup allowed. Never broken inside, so that paths can be copied."""
    console().print(message, soft_wrap=True)


def warn(message: str) -> None:
    """One line that the user should notice; printed as it is, without markup."""
    from rich.markup import escape

    console().print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)


def progress_bar(*columns: str) -> Progress:
    """A transient progress bar: description, bar, count, the given extra `{task.fields[name]}` columns, ETA.

    On a terminal that is not interactive it draws nothing.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        *(TextColumn(column) for column in columns),
        TimeRemainingColumn(compact=True),
        console=console(),
        transient=True,
        disable=not console().is_terminal or not is_main(),
    )
