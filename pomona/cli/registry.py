"""`pomona registry`: which models are on this machine, what is known of them, and what of it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Keep a registry of models, and audit one before it is used.", no_args_is_help=True)
REGISTRY = "The folder that `scan` wrote."


@app.command()
def scan(
    folders: Annotated[list[str], typer.Argument(metavar="DIR...", help="Folders or files that hold models.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Where the records go.")] = "registry",
    digests: Annotated[bool, typer.Option(help="Read every byte, so that equal weights are found.")] = True,
) -> None:
    """Collect a record of every model package, offline; what has not changed is not read again."""
    from pomona.cli.registry_show import print_scan

    print_scan(folders, Path(out), digests)


@app.command()
def verify(
    package: Annotated[str, typer.Argument(metavar="DIR", help="The folder or file of one model.")],
    data: Annotated[
        str | None, typer.Option(metavar="FILE", help='Lines of {"text": ..., "label": ...} to measure claims on.')
    ] = None,
    dataset: Annotated[str, typer.Option(help="What claims call that data.")] = "",
    split: Annotated[str, typer.Option(help="Which part of it that is.")] = "test",
    train: Annotated[
        str | None, typer.Option(metavar="FILE", help="What the model was trained on, of the same form.")
    ] = None,
    owners: Annotated[str | None, typer.Option(metavar="FILE", help="Trusted owners, one in each line.")] = None,
    registry: Annotated[
        str | None, typer.Option(metavar="FOLDER", help=f"Where base models are looked for. {REGISTRY}")
    ] = None,
    run: Annotated[bool, typer.Option(help="Load the model and let it run.")] = True,
    json: Annotated[str | None, typer.Option(metavar="FILE", help="Write everything that was found there.")] = None,
) -> None:
    """Audit a model before it is used: provenance, licence, claims, files that could run. Leaves with 1 on errors."""
    from pomona.cli.registry_show import print_audit

    if not print_audit(package, data, dataset, split, train, owners, registry, run, json):
        raise typer.Exit(1)


@app.command()
def query(
    registry: Annotated[str, typer.Argument(metavar="REGISTRY", help=REGISTRY)],
    conditions: Annotated[
        list[str] | None, typer.Argument(metavar="CONDITION...", help="task=fill-mask, name~bert, 'bytes<1e9' ...")
    ] = None,
    export: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write them: .ndjson, .parquet, .sqlite or .csv.")
    ] = None,
) -> None:
    """List the packages that meet all conditions."""
    from pomona.cli.registry_show import print_query

    print_query(Path(registry), conditions or [], Path(export) if export else None)


@app.command()
def report(
    registry: Annotated[str, typer.Argument(metavar="REGISTRY", help=REGISTRY)],
    json: Annotated[str | None, typer.Option(metavar="FILE", help="Write all figures there.")] = None,
) -> None:
    """Figures about all packages: what they are, what is known, duplicates, lineage, what could run."""
    from pomona.cli.registry_show import print_report

    print_report(Path(registry), json)
