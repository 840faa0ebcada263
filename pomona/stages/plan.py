"""The plan: what each stage will do and cost, checked and printed before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pomona.ground.console import console, say
from pomona.stages.base import Forecast, View
from pomona.stages.graph import Node, Outside, Report
from pomona.stages.recipe import Header
from pomona.stages.store import State, Store, outside_artefact


@dataclass
class Entry:
    """One stage of the plan. `seconds` is None until measured, and where the stage cannot tell."""

    node: Node
    state: State
    view: View
    forecast: Forecast
    seconds: float | None = None


@dataclass
class Plan:
    """All stages in order."""

    entries: list[Entry]

    def measure(self) -> None:
        """Ask every stage that is still to be made how long it takes here; the probes take seconds in all."""
        for entry in self.entries:
            if entry.state != "made":
                entry.seconds = entry.node.stage.seconds(entry.view, entry.forecast)


def make_plan(nodes: Sequence[Node], store: Store, report: Callable[[Node], Report]) -> Plan:
    """Check every stage against what it will be given. Problems go to `report(node)`; nothing is computed."""
    entries: list[Entry] = []
    forecasts: dict[str, Forecast] = {}
    for node in nodes:
        inputs = {name: [_forecast(source, forecasts) for source in sources] for name, sources in node.inputs.items()}
        ledgers = {name: [_ledger(source, store) for source in sources] for name, sources in node.inputs.items()}
        state = store.find(node).state
        view = View(inputs, node.seed, report(node), ledgers, made=state == "made")
        forecast = node.stage.plan(view)
        if state == "made":
            artefact = store.artefact(node, store.find(node).folder)
            forecast.known |= {"facts": artefact.facts, "folder": artefact.folder}
        forecasts[node.label] = forecast
        entries.append(Entry(node, state, view, forecast))
    return Plan(entries)


def show(plan: Plan, header: Header | None, folder: Path) -> None:
    """Print the plan."""
    from rich.table import Table

    if header is not None:
        say(f"[bold]{header.name}[/] {header.description.strip()}".rstrip())
        expected = [f"about {header.minutes:g} min" if header.minutes else "", header.hardware, header.expected]
        if any(expected):
            say(f"[dim]expected: {', '.join(part for part in expected if part)}[/]")
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("stage", ""):
        table.add_column(title, no_wrap=True)
    for title in ("tokens", "parameters", "FLOPs", "time here"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for entry in plan.entries:
        stage, forecast = entry.node.stage, entry.forecast
        what = stage.verb if entry.node.label != stage.verb else ""
        time = "made" if entry.state == "made" else duration(entry.seconds)
        note = forecast.note if entry.state != "damaged" else "damaged: will be made again"
        table.add_row(
            entry.node.label,
            f"[dim]{what}[/]",
            count(forecast.tokens),
            count(forecast.parameters),
            count(forecast.flops),
            f"[green]{time}[/]" if time == "made" else time,
            f"[dim]{note}[/]",
        )
    console().print(table)
    todo = [entry for entry in plan.entries if entry.state != "made"]
    for remark in dict.fromkeys(entry.forecast.remark for entry in todo):
        if remark:
            say(f"[dim]{remark}[/]")
    known = sum(entry.seconds or 0.0 for entry in todo)
    unknown = [entry.node.label for entry in todo if entry.seconds is None]
    if todo:
        rest = f", besides {' and '.join(unknown)}" if unknown else ""
        say(f"[dim]about {duration(known)} on this machine{rest}; into {folder}[/]")


def count(value: float | None) -> str:
    """A number with a unit: 1.6M, 62T; nothing for None."""
    if value is None:
        return ""
    for unit, name in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Seconds in words: `35 s`, `4.2 min`, `3.1 h`; `?` for None."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _forecast(source: Node | Outside, forecasts: dict[str, Forecast]) -> Forecast:
    """What is known about an input."""
    if isinstance(source, Node):
        return forecasts[source.label]
    artefact = outside_artefact(source)
    return Forecast(known={"folder": source.folder, "facts": artefact.facts})


def _ledger(source: Node | Outside, store: Store) -> dict[str, object]:
    if isinstance(source, Outside):
        return outside_artefact(source).ledger()
    found = store.find(source)
    return store.artefact(source, found.folder).ledger() if found.state == "made" else {}
