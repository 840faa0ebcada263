"""The report in a terminal: the claim, what every stage cost and bought, dense against compressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pomona.examination.comparison import UNIT_NAMES, Unit, changes_of, compare, total_cost, unit_of
from pomona.examination.records import ModelRow, ReportData
from pomona.examination.units import count, data_size, duration, fixed, flops, percent, shorten, signed, visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text


def print_summary(data: ReportData, console: Console | None = None) -> None:
    """Print the summary on `console`, or on standard output."""
    from pomona.ground.console import output

    (console or output()).print(summary(data))


def summary(data: ReportData) -> RenderableType:
    """The summary for rich. Names are shown as text: no markup, and no control sequence reaches the terminal."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    unit = unit_of(data)
    claim = compare(data)
    parts: list[RenderableType] = [Text(claim.headline, "bold")]
    parts += [Text(line) for line in claim.details]
    parts += [Text(line, "dim") for line in (*claim.caveats, *map(visible, data.notes))]
    if any(arm.stages for arm in data.arms):
        parts.append(Padding(_stages(data, unit), (1, 0, 0, 0)))
        if any(total_cost(arm.stages).aside for arm in data.arms):
            parts.append(Text("(in brackets: counted in no budget)", "dim"))
    if data.models:
        parts.append(Padding(_models(data.models, unit), (1, 0, 0, 0)))
    return Group(*parts)


def _stages(data: ReportData, unit: Unit) -> Table:
    table = _table("stage", "tokens", "compute", "time", "memory", UNIT_NAMES[unit], "change")
    for arm in data.arms:
        role = "" if arm.name == arm.role else f" {arm.role}"
        table.add_row(_name(shorten(arm.name, 40), "bold").append(role, "dim not bold"))
        for change in changes_of(arm, unit):
            cost = change.cost
            table.add_row(
                _name(f"  {shorten(change.stage.name, 30)}"),
                count(cost.tokens) if cost.tokens else "",
                flops(cost.flops) if cost.flops else "",
                duration(cost.seconds) if cost.seconds else "",
                data_size(cost.peak_memory_bytes) if cost.peak_memory_bytes else "",
                fixed(change.after, 3) if change.after is not None else "",
                signed(change.change, 3) if change.change is not None else "",
            )
        for purpose, charge in total_cost(arm.stages).aside.items():
            spent = flops(charge.flops) if charge.flops else ""
            table.add_row(_name(f"  ({shorten(purpose, 18)})"), "", spent, duration(charge.seconds), style="dim")
    return table


def _models(rows: tuple[ModelRow, ...], unit: Unit) -> Table:
    table = _table("model", "form", "size", "parameters", "tokens/s", UNIT_NAMES[unit], "accuracy")
    for row in rows:
        quality, rate = row.quality, row.decode_tokens_per_second
        value = getattr(quality, unit) if quality is not None else None
        table.add_row(
            _name(shorten(row.name, 40)),
            _name(shorten(row.form, 40), "dim"),
            data_size(row.bytes) if row.bytes else "",
            count(row.parameters) if row.parameters else "",
            fixed(rate, 0) if rate is not None else "",
            fixed(value, 3) if value is not None else "",
            percent(quality.accuracy) if quality is not None and quality.accuracy is not None else "",
        )
    return table


def _name(text: str, style: str = "") -> Text:
    """A name that gives way, with an ellipsis, before a number does."""
    from rich.text import Text

    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in (first, *others):
        if name in ("stage", "model", "form"):
            table.add_column(name)
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table
