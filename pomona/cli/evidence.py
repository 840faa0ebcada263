"""`pomona evidence`: put what published systems claim to the test, and see where the evidence stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Put what published systems claim to the test.", no_args_is_help=True)


@app.command()
def run(
    slug: Annotated[str, typer.Argument(help="The system, as `pomona methods` lists it.")],
    scale: Annotated[str, typer.Option(help="tiny, small or gpu.")] = "tiny",
    seeds: Annotated[int | None, typer.Option(help="How many; default: as the card says.")] = None,
    work: Annotated[str, typer.Option(metavar="FOLDER", help="Where the runs lie.")] = "runs/evidence",
    results: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where the result goes; default: beside the cards.")
    ] = None,
) -> None:
    """Run the card of a system: its arms in turns, seed by seed, and a verdict by the card's rule."""
    from pomona.cli.evidence_show import print_result
    from pomona.evidence.result import RESULTS
    from pomona.evidence.run import run_evidence

    folder = Path(results) if results else RESULTS
    print_result(run_evidence(slug, scale, seeds=seeds, work=Path(work), results=folder))  # type: ignore[arg-type]


@app.command()
def status(
    all_: Annotated[bool, typer.Option("--all", help="Systems without a card, too.")] = False,
) -> None:
    """List the verdicts, and which of them are about code that has changed since."""
    from pomona.cli.evidence_show import print_status

    print_status(all_)


@app.command()
def show(slug: Annotated[str, typer.Argument(help="The system, as `pomona methods` lists it.")]) -> None:
    """Print the card of a system and what came out."""
    from pomona.cli.evidence_show import print_card

    print_card(slug)
