"""report.html: one file that says what every step of a recipe bought next to its baseline.

It makes no request, runs no script and needs no font: style and drawings are in the file, and the page forbids
itself everything else. Light, dark, paper and telephone are handled by the style alone. Whatever came from data, a
model or a file name passes through `_text`, which shows control characters and escapes the rest.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from pomona.examination.comparison import (
    UNIT_NAMES,
    Charge,
    Unit,
    changes_of,
    compare,
    compressed_pairs,
    cost_of,
    total_cost,
    unit_of,
)
from pomona.examination.plots import FONT, arm_variables, cost_plot, loss_plot, palette_css, size_plot
from pomona.examination.records import Arm, ModelRow, ReportData, Sample, StageRecord
from pomona.examination.units import TIMES, count, data_size, duration, fixed, flops, number, percent, signed, visible
from pomona.ground.errors import ConfigError
from pomona.ground.files import write_text


def write_report(path: Path, data: ReportData) -> None:
    """Write the report to `path`, atomically. The same data give the same bytes.

    Raises:
        ConfigError: two arms or two models share a name, so that a reader could not tell them apart.
        StorageError: `path` cannot be written.
    """
    write_text(path, report_html(data))


def report_html(data: ReportData) -> str:
    """The page as text; see `write_report`."""
    for what, names in (("arms", [arm.name for arm in data.arms]), ("models", [row.name for row in data.models])):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"two {what} of a report share a name", found=", ".join(map(repr, twice)), do="rename one"
            )
    unit = unit_of(data)
    sections = [
        _head(data),
        _curves(data),
        _costs(data, unit),
        _models(data, unit),
        _samples(data),
        _recipe(data),
        _facts(data),
    ]
    body = "\n".join(section for section in sections if section)
    return _PAGE.format(title=_text(data.title), style=_style(), body=body)


def _head(data: ReportData) -> str:
    claim = compare(data)
    details = "".join(f"<p>{_text(detail)}</p>" for detail in claim.details)
    remarks = "".join(f"<li>{_text(remark)}</li>" for remark in (*claim.caveats, *data.notes))
    figures = "".join(
        f"<div><dd>{_text(figure.value)}</dd><dt>{_text(figure.label)}</dt></div>" for figure in claim.figures
    )
    return (
        f'<header><p class="over">{_text(data.title)}</p><h1>{_text(claim.headline)}</h1>'
        + (f'<div class="lead">{details}</div>' if details else "")
        + (f'<dl class="figures">{figures}</dl>' if figures else "")
        + (f'<ul class="remarks">{remarks}</ul>' if remarks else "")
        + "</header>"
    )


def _curves(data: ReportData) -> str:
    plots = [plot for axis in ("flops", "seconds") if (plot := loss_plot(data, axis)) is not None]
    if not plots:
        return ""
    caption = (
        "Dots are measured on held-out text, thin lines are training batches. Compute and time count everything that "
        "made the model; a dotted line marks where it grew, a diamond the model after quantization."
    )
    return _section("How the loss fell", _pair(plots) + f'<p class="caption">{caption}</p>')


def _costs(data: ReportData, unit: Unit) -> str:
    if not any(arm.stages for arm in data.arms) and not data.shared:
        return ""
    columns = ("Stage", "Parameters", "Tokens", "Compute", "Time", "Peak memory", "Of that, beside training")
    heads = (*columns, UNIT_NAMES[unit], "Change")
    variables = arm_variables(data.arms)
    groups = [_shared_rows(data.shared, heads)] if data.shared else []
    groups += [_arm_rows(arm, unit, heads, variables[arm.name]) for arm in data.arms]
    aside = _aside(data)
    text = (
        '<div class="prose"><p>Compute is counted from the operations that ran, the optimizer\'s own included. '
        "The change is the difference of the held-out loss to the stage before; below zero is better. Growing alone "
        "may raise it: what it buys shows in the stage after.</p>"
        + (f"<p>Counted in no budget: {aside}</p>" if aside else "")
        + "</div>"
    )
    plot = cost_plot(data)
    return _section(
        "What every step cost and bought",
        _table(heads, groups, numeric=(1, 2, 3, 4, 5, 7, 8)) + (_pair([plot, text]) if plot else text),
    )


def _shared_rows(stages: Sequence[StageRecord], heads: Sequence[str]) -> str:
    rows = "".join(_stage_row(stage, heads, "", "") for stage in stages)
    return f"<tbody>{_group_row('Shared by all arms', '', len(heads))}{rows}</tbody>"


def _arm_rows(arm: Arm, unit: Unit, heads: Sequence[str], variable: str) -> str:
    rows = [_group_row(f"{arm.name} ({arm.role})", variable, len(heads))]
    for change in changes_of(arm, unit):
        after = fixed(change.after, 3) if change.after is not None else ""
        moved = signed(change.change, 3) if change.change is not None else ""
        rows.append(_stage_row(change.stage, heads, after, moved))
    if len(arm.stages) > 1:
        cost = total_cost(arm.stages)
        cells = ["Sum", "", _some(cost.tokens, count), _some(cost.flops, flops), _some(cost.seconds, duration)]
        cells += [_some(cost.peak_memory_bytes, data_size), "", "", ""]
        rows.append(f'<tr class="sum">{_cells(map(_text, cells), heads)}</tr>')
    return f"<tbody>{''.join(rows)}</tbody>"


def _stage_row(stage: StageRecord, heads: Sequence[str], after: str, moved: str) -> str:
    cost = cost_of(stage)
    note = stage.facts.get("note")
    kind = stage.kind if stage.kind != stage.name else ""
    below = ", ".join(part for part in (kind, str(note) if note else "") if part)
    parameters = stage.facts.get("parameters")
    cells = [
        f"{_name(stage.name)}{_small(below)}",
        _text(count(parameters)) if isinstance(parameters, int | float) else "",
        _text(_some(cost.tokens, count)),
        _text(_some(cost.flops, flops)),
        _text(_some(cost.seconds, duration)),
        _text(_some(cost.peak_memory_bytes, data_size)),
        "<br>".join(_text(line) for line in _charges(cost.auxiliary)) if cost.tokens else "",
        _text(after),
        _text(moved),
    ]
    return f"<tr>{_cells(cells, heads)}</tr>"


def _charges(charges: Mapping[str, Charge]) -> list[str]:
    lines = []
    for purpose, charge in charges.items():
        parts = [_some(charge.flops, flops), _some(charge.seconds, duration)]
        lines.append(f"{purpose}: {', '.join(part for part in parts if part) or '0'}")
    return lines


def _aside(data: ReportData) -> str:
    """What was spent on measuring and on sweeps, per arm, as one escaped sentence."""
    parts = []
    for arm in data.arms:
        charges = _charges(total_cost(arm.stages).aside)
        if charges:
            parts.append(f"{_name(arm.name)} ({_text('; '.join(charges))})")
    return "; ".join(parts) + "." if parts else ""


def _models(data: ReportData, unit: Unit) -> str:
    if not data.models:
        return ""
    sizes = ("Model", "Size", "Parameters", "Bits per weight", "Tokens per second")
    heads = (*sizes, UNIT_NAMES[unit], "Perplexity", "First guess right")
    dense = {small.name: big for big, small in compressed_pairs(data)}
    variables = arm_variables(data.arms)
    rows = "".join(_model_row(row, dense.get(row.name), unit, heads, variables) for row in data.models)
    table = _table(heads, [f"<tbody>{rows}</tbody>"], numeric=range(1, len(heads)))
    folders = "".join(f"<li>{_name(row.name)}: <code>{_text(row.folder)}</code></li>" for row in data.models)
    tokens = {row.quality.tokens for row in data.models if row.quality is not None}
    same = (
        f"Every model was measured on the same {count(next(iter(tokens)))} held-out tokens. "
        if len(tokens) == 1
        else ""
    )
    text = (
        f'<div class="prose"><p>{same}Tokens per second: one sequence, written token by token. The folders:</p>'
        f'<ul class="plain">{folders}</ul></div>'
    )
    plot = size_plot(data)
    slices = _slices(data, unit)
    return _section("Dense against compressed", table + (_pair([plot, text]) if plot else text) + slices)


def _model_row(
    row: ModelRow, dense: ModelRow | None, unit: Unit, heads: Sequence[str], variables: Mapping[str, str]
) -> str:
    quality = row.quality
    value = getattr(quality, unit) if quality is not None else None
    before = getattr(dense.quality, unit) if dense is not None and dense.quality is not None else None
    size, speed, loss = "", "", ""
    if dense is not None and row.bytes and dense.bytes:
        size = f"{number(dense.bytes / row.bytes, 2)}{TIMES} smaller"
    if dense is not None and dense.decode_tokens_per_second and row.decode_tokens_per_second:
        speed = f"{number(row.decode_tokens_per_second / dense.decode_tokens_per_second, 2)}{TIMES}"
    if value is not None and before is not None:
        loss = signed(value - before, 3)
    rate = row.decode_tokens_per_second
    cells = [
        f"{_swatch(variables.get(row.arm, ''))}{_name(row.name)}{_small(row.form)}",
        _text(_some(row.bytes, data_size)) + _small(size),
        _text(_some(row.parameters, count)),
        _text(fixed(row.bits_per_weight, 1)) if row.bits_per_weight is not None else "",
        (_text(fixed(rate, 0)) if rate is not None else "")
        + _small(", ".join(p for p in (speed, row.decoded_by) if p)),
        (_text(fixed(value, 3)) if value is not None else "") + _small(loss),
        _text(number(quality.perplexity, 3)) if quality is not None else "",
        _text(percent(quality.accuracy)) if quality is not None and quality.accuracy is not None else "",
    ]
    return f"<tr>{_cells(cells, heads)}</tr>"


def _slices(data: ReportData, unit: Unit) -> str:
    """Loss by part of the held-out text, one column per model."""
    rows = [row for row in data.models if row.quality is not None and row.quality.slices]
    names = list(dict.fromkeys(name for row in rows if row.quality for name in row.quality.slices))
    if not names:
        return ""
    heads = ("Part of the held-out text", *(visible(row.name) for row in rows))
    lines = []
    for name in names:
        parts = [row.quality.slices.get(name) if row.quality else None for row in rows]
        values = [getattr(part, unit) if part is not None else None for part in parts]
        cells = [_name(name), *(_text(fixed(value, 3)) if value is not None else "" for value in values)]
        lines.append(f"<tr>{_cells(cells, heads)}</tr>")
    table = _table(heads, [f"<tbody>{''.join(lines)}</tbody>"], numeric=range(1, len(heads)))
    return f"<h3>{_text(UNIT_NAMES[unit].replace('/', ' per ').capitalize())}, by part of the text</h3>{table}"


def _samples(data: ReportData) -> str:
    if not data.samples:
        return ""
    groups = groupby(data.samples, key=lambda sample: sample.mode)
    body = "".join(f"<h3>{_text(mode)}</h3>{''.join(map(_sample, samples))}" for mode, samples in groups)
    return _section("What the models write", body)


def _sample(sample: Sample) -> str:
    parts = [(name, text.removeprefix(" ")) for name, text in sample.continuations.items()]
    columns = "".join(
        f'<div><h4>{_name(name)}</h4><p class="written" dir="auto">{_text(text, lines=True)}</p></div>'
        for name, text in parts
    )
    prompt = f'<p class="prompt written" dir="auto">{_text(sample.prompt.rstrip(), lines=True)}</p>'
    return f'<article class="sample">{prompt}<div class="columns">{columns}</div></article>'


def _recipe(data: ReportData) -> str:
    blocks = []
    if data.recipe:
        blocks.append(f"<pre><code>{_text(data.recipe, lines=True)}</code></pre>")
    if data.reproduce:
        commands = _text("\n".join(data.reproduce), lines=True)
        blocks.append(f"<h3>To make this report again</h3><pre><code>{commands}</code></pre>")
    return _section("The recipe", "".join(blocks)) if blocks else ""


def _facts(data: ReportData) -> str:
    groups = (("Text", data.corpus), ("Machine", data.machine), ("Versions", data.versions))
    lists = "".join(f"<div><h3>{title}</h3>{_fact_list(facts)}</div>" for title, facts in groups if facts)
    return _section("Text, machine, versions", f'<div class="three">{lists}</div>') if lists else ""


def _fact_list(facts: Mapping[str, Any]) -> str:
    items = "".join(
        f"<div><dt>{_text(str(key).replace('_', ' '))}</dt><dd>{_fact(str(key), value)}</dd></div>"
        for key, value in facts.items()
        if value is not None and value != ""
    )
    return f'<dl class="facts">{items}</dl>'


def _fact(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f"{_name(str(name))} {_fact(str(name), part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return "<br>".join(_fact(key, part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and (key == "bytes" or key.endswith("_bytes")):
        return _text(data_size(value))
    if isinstance(value, int):
        return _text(f"{value:,}")
    return _text(str(value))


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _pair(parts: Sequence[str]) -> str:
    return f'<div class="pair">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def _table(heads: Sequence[str], groups: Sequence[str], *, numeric: Iterable[int]) -> str:
    """A table whose cells carry their column's name, so that a narrow screen can show each row as a card."""
    right = set(numeric)
    cells = "".join(
        f'<th scope="col"{" class=n" if index in right else ""}>{_text(head)}</th>' for index, head in enumerate(heads)
    )
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>{"".join(groups)}</table></div>'


def _cells(cells: Iterable[str], heads: Sequence[str]) -> str:
    """Cells of one row from HTML; an empty one is left out on narrow screens."""
    parts = []
    for index, (cell, head) in enumerate(zip(cells, heads, strict=True)):
        empty = "" if cell else ' class="none"'
        parts.append(
            f'<th scope="row">{cell}</th>' if index == 0 else f'<td data-head="{_text(head)}"{empty}>{cell}</td>'
        )
    return "".join(parts)


def _group_row(name: str, variable: str, width: int) -> str:
    return f'<tr class="group"><th colspan="{width}" scope="rowgroup">{_swatch(variable)}{_name(name)}</th></tr>'


def _swatch(variable: str) -> str:
    return f'<i class="swatch" style="background: var(--{variable})"></i>' if variable else ""


def _small(text: str) -> str:
    return f"<small>{_text(text)}</small>" if text else ""


def _name(text: str) -> str:
    """A name within other text: its own direction of writing does not spread."""
    return f"<bdi>{_text(text)}</bdi>"


def _text(text: str, *, lines: bool = False) -> str:
    """The only way from a string to the page: visible, and escaped."""
    return html.escape(visible(text, lines=lines), quote=True)


def _some(value: float, shown: Any) -> str:
    return str(shown(value)) if value else ""


def _style() -> str:
    css = files("pomona.examination").joinpath("report.css").read_text(encoding="utf-8")
    return css.replace("LIGHT;", palette_css("light")).replace("DARK;", palette_css("dark")).replace("FONT", FONT)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
