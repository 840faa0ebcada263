"""Lists and cards on standard output. Nothing here imports torch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pomona.catalog import KINDS, Row, card, find, parameters, select
from pomona.examination.units import duration
from pomona.ground.console import output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pomona.stages.watching import Watched


def print_methods(
    kind: str | None = None,
    stage: str | None = None,
    modality: str | None = None,
    status: str | None = None,
    verdict: str | None = None,
    *,
    every: bool = False,
) -> None:
    """The catalog by kind: what is built, unless a status or `every` asks for more."""
    matching = select(kind, stage, modality, status, verdict)
    listed = matching if every or status else [row for row in matching if row.status == "built"]
    planned = sum(row.status == "planned" for row in matching)
    mixed = {row.status for row in listed} > {"built"}
    width = max((len(row.slug) for row in listed), default=0)
    out = output()
    for each in KINDS:
        of_kind = sorted((row for row in listed if row.kind == each), key=lambda row: row.slug)
        if not of_kind:
            continue
        out.print(Text(each, "bold"))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(min_width=width + 2, no_wrap=True)
        table.add_column(min_width=4, style="dim")
        if mixed:
            table.add_column(min_width=7, style="dim")
        table.add_column()
        for row in of_kind:
            summary = Text(row.summary)
            if row.verdict != "not run":
                summary.append(f" ({row.verdict})", "dim")
            table.add_row(f"  {row.slug}", str(row.year or ""), *[row.status] * mixed, summary)
        out.print(table)
    counts = [f"{len(matching) - planned} built"] * (status != "planned") + [f"{planned} planned"] * (status != "built")
    hint = "; --all lists the planned ones too" if planned and not (every or status) else ""
    out.print(Text(f"{', '.join(counts)}{hint}", "dim"))


def print_card(slug: str) -> None:
    """What a method's file says about it, and how a recipe names it; of a planned one, what the catalog says."""
    row = find(slug)
    out = output()
    out.print(Text(f"{row.slug} ({row.kind}) {row.implements or row.status}", "bold"))
    stages = ", ".join(row.stages) or "none, it stands alone"
    out.print(Text(f"stages: {stages}; data: {', '.join(row.modality)}\n", "dim"))
    if row.module is None:
        return _print_planned(row)
    out.print(Text(card(row)), soft_wrap=True)
    described = parameters(row)
    if described:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column()
        for parameter in described:
            table.add_row(Text(f"  {parameter.name}"), Text(parameter.default, "dim"), Text(parameter.description))
        out.print(Text("\nParameters, with their defaults", "bold"))
        out.print(table)


def _print_planned(row: Row) -> None:
    """What the catalog knows of a method that nobody has built yet."""
    out = output()
    paper = f", arXiv:{row.arxiv}, https://arxiv.org/abs/{row.arxiv}" if row.arxiv else ""
    out.print(Text(f"{row.title}{f', {row.year}' if row.year else ''}{paper}"), soft_wrap=True)
    out.print(Text(row.summary), soft_wrap=True)
    built = sorted(other.slug for other in select(kind=row.kind, status="built"))
    of_kind = f"built of its kind: {', '.join(built)}" if built else f"no {row.kind} is built yet"
    out.print(Text(f"Planned, not built yet; {of_kind}.", "dim"), soft_wrap=True)


def print_recipes() -> None:
    """The shipped recipes."""
    from pomona.ground.yaml import read_yaml
    from pomona.stages import shipped

    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("recipe", "minutes", "hardware", ""):
        table.add_column(title)
    for name, path in shipped().items():
        value = read_yaml(path).value
        minutes = value.get("minutes")
        table.add_row(
            Text(name, "bold"),
            "" if minutes is None else f"{minutes:g}",
            str(value.get("hardware", "")),
            " ".join(str(value.get("description", "")).split()),
        )
    output().print(table)


def print_leftovers(folder: Path, *, finished: bool, remove: bool) -> None:
    """What a run does not need any more; removed if asked for."""
    from pomona.stages import cleaning

    found = cleaning.leftovers(folder, finished=finished)
    out = output()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    for each in found:
        table.add_row(f"{each.bytes / 1e6:,.1f} MB", Text(each.folder.name), Text(each.why, "dim"))
    if found:
        out.print(table)
    if not found:
        out.print(Text(f"there is nothing to remove in {folder}"))
    elif remove:
        cleaning.remove(folder, found)
        out.print(Text(f"removed {cleaning.described(found)}"))
    else:
        out.print(Text(f"{cleaning.described(found)}; --yes removes them"))


def watch(folder: Path, *, every: float, once: bool) -> None:
    """Show how far a run is, until it is finished or nobody works on it any more."""
    from rich.live import Live

    from pomona.stages.watching import look

    if once:
        output().print(_watched(look(folder)))
        return
    with Live(console=output(), auto_refresh=False) as live:
        while True:
            seen = look(folder)
            live.update(_watched(seen), refresh=True)
            if seen.finished or seen.alive is False:
                return
            time.sleep(every)


def _watched(run: Watched) -> RenderableType:
    states = {"made": ("made", "green"), "begun": ("begun", "yellow"), "waiting": ("", "dim")}
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("stage", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("time", "step", "loss", "held-out", "tokens/s", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    for place in run.places:
        training = place.training
        row = [duration(place.seconds) if place.seconds is not None else ""]
        if training is not None:
            of = f"/{training.steps}" if training.steps is not None else ""
            row += [
                f"{training.step}{of}",
                "" if training.loss is None else f"{training.loss:.3f}",
                "" if training.held_out is None else f"{training.held_out:.3f}",
                "" if training.rate is None else f"{training.rate:,.0f}",
                "" if training.left is None else duration(training.left),
            ]
        pilot = f" ({training.label})" if training is not None and training.label != place.label else ""
        table.add_row(Text(f"{place.label}{pilot}"), Text(*states[place.state]), *row)
    return Group(table, Text(_said(run), "dim"))


def _said(run: Watched) -> str:
    """Who works on the run, and since when nothing was written."""
    if run.finished:
        return "every stage is made"
    if run.alive is False:
        return f"nobody works on it; pomona run {run.folder.name} goes on from here"
    ages = [place.training.age for place in run.places if place.training is not None]
    record = f", last record {duration(min(ages))} ago" if ages else ""
    return f"{run.owner}{record}"


def print_source(path: str, text: str, documents: int) -> None:
    """The parts of a source and its first documents."""
    from itertools import islice

    from pomona.data.config import SourceConfig
    from pomona.data.sources import parts_of
    from pomona.stages.sampling import documents_of

    source = SourceConfig.parse({"path": path, "text": text}, "source")
    parts = parts_of(source)
    out = output()
    out.print(Text(f"{path}: {len(parts):,} parts", "bold"))
    for document in islice(documents_of(source), documents):
        about = ", ".join(f"{key}={value}" for key, value in document.metadata.items())
        out.print(Text(f"\n{about} ({len(document.text.encode()):,} bytes)", "dim"))
        shown = document.text[:400]
        out.print(Text(shown + ("…" if len(document.text) > len(shown) else "")), soft_wrap=True)
