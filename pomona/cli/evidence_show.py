"""Cards, results and verdicts on standard output."""

from __future__ import annotations

from collections import Counter

from rich.table import Table as Grid
from rich.text import Text

from pomona.catalog import find
from pomona.evidence.card import Metric
from pomona.evidence.result import Result, results_of
from pomona.evidence.table import Table
from pomona.ground.console import output

STYLES = {"reproduced": "green", "partly": "yellow", "not reproduced": "red"}


def print_status(all_: bool) -> None:
    """One line for each system that has a card, or for all."""
    from pomona.evidence.run import standings

    found = standings()
    out = output()
    grid = Grid(box=None, header_style="dim", pad_edge=False)
    for title in ("system", "verdict", "scale", "seeds", "", "because"):
        grid.add_column(title, no_wrap=title != "because")
    for each in found:
        if not (each.has_card or all_):
            continue
        result, verdict = each.result, each.verdict
        grid.add_row(
            Text(each.row.slug, "bold"),
            Text(verdict.status, STYLES[verdict.status]) if verdict else "",
            result.scale if result else "",
            str(len(result.table.seeds)) if result else "",
            Text(str(each.state), "dim" if each.state == "fresh" else "yellow"),
            Text(verdict.because if verdict else "", "dim"),
        )
    out.print(grid)
    counts = Counter(str(each.state) for each in found)
    out.print(Text(f"{len(found)} systems: " + ", ".join(f"{n} {state}" for state, n in counts.most_common()), "dim"))


def print_card(slug: str) -> None:
    """What a card says, and its results."""
    from pomona.evidence.card import card_of

    card = card_of(find(slug).slug)
    out = output()
    out.print(Text(card.slug, "bold"))
    grid = Grid(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("claim", "equal", "rule"):
        grid.add_row(Text(name, "dim"), getattr(card, name))
    out.print(grid)
    for result in results_of(card.slug):
        print_result(result)


def print_result(result: Result) -> None:
    """Every arm with mean and spread of every metric, and the verdict."""
    out = output()
    metrics = [Metric(**metric) for metric in result.metrics]  # type: ignore[arg-type]
    out.print(arms_grid(result.table, metrics, {name: str(arm["role"]) for name, arm in result.arms.items()}))
    note = "" if result.state == "fresh" else f" [{result.state}]"
    line = Text(f"{result.verdict.status}{note}", f"bold {STYLES[result.verdict.status]}")
    line.append(
        f": {result.verdict.because} ({result.scale}, {len(result.table.seeds)} seeds, {result.day})", "default"
    )
    out.print(line)


def arms_grid(table: Table, metrics: list[Metric], roles: dict[str, str]) -> Grid:
    """Arms by metrics: mean ± standard deviation over seeds."""
    from pomona.examination.units import flops

    grid = Grid(box=None, header_style="dim", pad_edge=False)
    grid.add_column("arm", no_wrap=True)
    for metric in metrics:
        grid.add_column(f"{metric.name} {'↓' if metric.better == 'lower' else '↑'}", justify="right")
    grid.add_column("FLOPs", justify="right")
    for arm in table.arms:
        cells = [table.shown(arm, metric.name) for metric in metrics]
        cost = table.flops(arm)
        role = roles.get(arm, "")
        name = Text(arm, "bold" if role == "method" else "")
        if role in ("baseline", "reference"):
            name.append(f" ({role})", "dim")
        grid.add_row(name, *cells, flops(cost) if cost else "")
    return grid
