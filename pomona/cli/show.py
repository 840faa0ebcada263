"""Lists and cards on standard output. Nothing here imports torch."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from pomona.catalog import KINDS, card, find, parameters, rows
from pomona.ground.console import output
from pomona.ground.errors import ConfigError, did_you_mean


def print_methods(kind: str | None = None) -> None:
    """The catalog as a table, by kind."""
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"unknown kind {kind!r}", do=did_you_mean(kind, KINDS))
    out = output()
    width = max(len(row.slug) for row in rows())
    for each in KINDS:
        listed = sorted((row for row in rows() if row.kind == each and kind in (None, each)), key=lambda row: row.slug)
        if not listed:
            continue
        out.print(Text(each, "bold"))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(min_width=width + 2, no_wrap=True)
        table.add_column()
        for row in listed:
            about = ", ".join(part for part in (f"arXiv:{row.arxiv}" if row.arxiv else "", str(row.year or "")) if part)
            summary = Text(row.summary)
            if about:
                summary.append(f" ({about})", "dim")
            table.add_row(f"  {row.slug}", summary)
        out.print(table)


def print_card(slug: str) -> None:
    """What a method's file says about it, and how a recipe names it."""
    row = find(slug)
    out = output()
    out.print(Text(f"{row.slug} ({row.kind}) {row.implements}", "bold"))
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
