"""Lists and cards on standard output. Nothing here imports torch."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from pomona.catalog import KINDS, Row, card, find, parameters, select
from pomona.ground.console import output


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
