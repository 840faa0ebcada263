"""`pomona anatomy`: show the parts of a model, prove by experiment what is said about them, propose it if unknown."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Look at the parts of a model, and prove what is said about them.", no_args_is_help=True)
MODEL = "A folder, a model on the hub, or a model type such as llama."


@app.command()
def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    tokens: Annotated[int, typer.Option(help="The length of the sequence that costs are given for.")] = 2048,
) -> None:
    """Show every part of a model with its sizes, what it can do, and what it costs. Reads no weights."""
    from pomona.cli.anatomy_show import print_anatomy

    print_anatomy(model, tokens)


@app.command()
def draft(model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)]) -> None:
    """Propose the declaration of an unknown model by experiments on a tiny random one; say what is not proven."""
    from pomona.cli.anatomy_show import print_draft

    if not print_draft(model):
        raise typer.Exit(1)


@app.command()
def check(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=f"{MODEL} Or: --all")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Tiny random models of every shape that is shipped.")] = False,
    shape: Annotated[str | None, typer.Option(help="Believe in this shape; with --all: only its models.")] = None,
    config_only: Annotated[bool, typer.Option("--config-only", help="Leave the model's own weights alone.")] = False,
) -> None:
    """Prove a model's anatomy: every probe on a tiny random model of its options, then a few on its own weights."""
    from pomona.cli.anatomy_show import print_checks

    if not print_checks(model, all_, shape, config_only):
        raise typer.Exit(1)
