"""Records, findings and figures on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as Grid
from rich.text import Text

from pomona.examination.units import data_size
from pomona.ground.console import output
from pomona.ground.files import write_json
from pomona.registry import Record, audit, export, problems_in, query, read_items, read_registry, report, scan
from pomona.registry.ptm_reuse_audit import PtmReuseAuditConfig
from pomona.registry.ptmtorrent import RECORDS, PtmtorrentConfig
from pomona.registry.views import FIELDS

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim", "good": "green"}
COLUMNS = ("name", "owner", "kind", "task", "architecture", "licence", "format", "bytes", "dangers")


def print_scan(folders: Sequence[str], out: Path, digests: bool) -> None:
    """Scan, and say what was found."""
    records = scan(folders, out, PtmtorrentConfig(digests=digests))
    print_records(records)
    incomplete = sum(bool(problems_in(record)) for record in records)
    note = f", {incomplete} without a field that the schema requires" if incomplete else ""
    output().print(Text(f"{len(records)} packages{note}: {out / RECORDS}", "dim"))


def print_query(folder: Path, conditions: Sequence[str], file: Path | None) -> None:
    """The records that meet the conditions."""
    found = query(read_registry(folder), conditions)
    print_records(found)
    if file is not None:
        export(found, file)
        output().print(Text(f"written: {file}", "dim"))


def print_records(records: Sequence[Record]) -> None:
    """One line for each."""
    grid = Grid(box=None, header_style="dim", pad_edge=False)
    for name in COLUMNS:
        grid.add_column(name, no_wrap=name == "name")
    for record in records:
        values = {name: FIELDS[name](record) for name in COLUMNS}
        shown = {**values, "bytes": data_size(values["bytes"])}
        grid.add_row(*(Text("" if shown[name] is None else str(shown[name])) for name in COLUMNS))
    output().print(grid)


def print_audit(
    package: str,
    data: str | None,
    dataset: str,
    split: str,
    train: str | None,
    owners: str | None,
    registry: str | None,
    run: bool,
    json: str | None,
) -> bool:
    """Audit a package and print what was found. Whether there is no error among it."""
    trusted = Path(owners).read_text(encoding="utf-8").split() if owners else ()
    found = audit(
        package,
        read_items(Path(data)) if data else (),
        dataset=dataset,
        split=split,
        train=read_items(Path(train)) if train else (),
        owners=trusted,
        bases=read_registry(Path(registry)) if registry else (),
        config=PtmReuseAuditConfig(run=run),
    )
    out = output()
    for finding in found.findings:
        line = Text(f"{finding.level:<8}", STYLES[finding.level])
        line.append(f"{finding.attribute:<14}", "dim").append(finding.what, "default")
        if finding.evidence:
            line.append(f" ({finding.evidence})", "dim")
        out.print(line)
    counts = {level: len(found.at(level)) for level in ("error", "warning")}
    out.print(Text(f"{counts['error']} errors, {counts['warning']} warnings", "bold"))
    if json is not None:
        write_json(Path(json), found.to_dict())
    return not counts["error"]


def print_report(folder: Path, json: str | None) -> None:
    """Figures about a registry."""
    figures = report(read_registry(folder))
    out = output()
    grid = Grid(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_row("packages", str(figures["packages"]))
    for name, counts in figures["by"].items():
        grid.add_row(f"by {name}", ", ".join(f"{key or 'not known'} {count}" for key, count in counts.items()))
    grid.add_row("valid", f"{figures['valid']:.0%} have every field that the schema requires")
    grid.add_row("without claims", str(sum(figures["without_claims"].values())))
    grid.add_row("files that call", ", ".join(f"{level}: {count}" for level, count in figures["dangers"].items()))
    for group in figures["duplicates"]:
        grid.add_row("the same weights", "\n".join(group))
    for path, relation, base, home in figures["lineage"]:
        grid.add_row(relation, f"{path} from {home or f'{base}, which is not here'}")
    out.print(grid)
    if json is not None:
        write_json(Path(json), figures)
