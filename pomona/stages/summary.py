"""What a run says at its end: what each stage cost and gained, and where the results lie."""

from __future__ import annotations

from collections.abc import Sequence

from pomona.ground.console import console, say
from pomona.ground.files import read_json
from pomona.stages.base import Artefact, ledger_flops
from pomona.stages.plan import count, duration


def summarize(artefacts: Sequence[Artefact]) -> None:
    """Print what the report claims (or, without one, a line per stage), then the folders a user wants to know."""
    report = next((artefact for artefact in artefacts if artefact.kind == "report"), None)
    if report is not None:
        from pomona.examination.records import ReportData
        from pomona.examination.summary import print_summary

        print_summary(ReportData.from_dict(read_json(report.folder / "report.json")), console())
    else:
        _print_stages(artefacts)
    for artefact in artefacts:
        if artefact.kind in ("export", "report"):
            shown = artefact.facts.get("open", "")
            say(f"{artefact.name}: [bold]{artefact.folder / shown}[/]")
    if not any(artefact.kind == "export" for artefact in artefacts):
        models = [artefact for artefact in artefacts if artefact.kind == "model"]
        if models:
            say(f"{models[-1].name}: [bold]{models[-1].folder}[/]")


def _print_stages(artefacts: Sequence[Artefact]) -> None:
    """A line per stage: cost, quality, change."""
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("stage", no_wrap=True)
    for title in ("tokens", "FLOPs", "time", "bits/byte", "change"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for artefact in artefacts:
        ledger = artefact.ledger()
        tokens = ledger.get("purposes", {}).get("train", {}).get("tokens")
        bits, before = _bits(artefact), _bits_before(artefact)
        change = f"{bits - before:+.3f}" if bits is not None and before is not None else ""
        table.add_row(
            artefact.name,
            count(tokens),
            count(ledger_flops(ledger) or None),
            duration(artefact.facts["stage"]["seconds"]),
            "" if bits is None else f"{bits:.3f}",
            change,
            f"[dim]{artefact.facts.get('note', '')}[/]",
        )
    console().print(table)


def _bits(artefact: Artefact) -> float | None:
    quality = artefact.facts.get("quality") or {}
    bits = quality.get("bits_per_byte")
    return None if bits is None else float(bits)


def _bits_before(artefact: Artefact) -> float | None:
    """Bits per byte of the model that the stage began with."""
    return next((bits for parent in artefact.parents.get("from", ()) if (bits := _bits(parent)) is not None), None)
