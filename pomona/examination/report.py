"""report.html: one file that says what every step of a recipe bought next to its baseline.

What it says is computed in `comparison`, drawn in `plots` and put onto the page by `page`, through which every string
from data, a model or a file name passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from pomona.examination.comparison import (
    UNIT_NAMES,
    Change,
    Charge,
    Unit,
    changes_of,
    compare,
    compressed_pairs,
    cost_of,
    total_cost,
    unit_of,
)
from pomona.examination.page import Row, fact_list, name, page, pair, prose, section, small, swatch, table, text
from pomona.examination.plots import arm_variables, cost_plot, loss_plot, size_plot
from pomona.examination.records import Arm, ModelRow, ReportData, Sample, StageRecord
from pomona.examination.units import TIMES, count, data_size, duration, fixed, flops, number, percent, signed
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
        twice = sorted({each for each in names if names.count(each) > 1})
        if twice:
            found = ", ".join(map(repr, twice))
            raise ConfigError(f"two {what} of a report share a name", found=found, do="rename one of them")
    unit = unit_of(data)
    parts = (
        _head(data),
        _curves(data),
        _costs(data, unit),
        _models(data, unit),
        _samples(data),
        _recipe(data),
        _facts(data),
    )
    return page(data.title, "\n".join(part for part in parts if part))


def _head(data: ReportData) -> str:
    claim = compare(data)
    details = "".join(f"<p>{text(detail)}</p>" for detail in claim.details)
    remarks = "".join(f"<li>{text(remark)}</li>" for remark in (*claim.caveats, *data.notes))
    figures = "".join(f"<div><dd>{text(each.value)}</dd><dt>{text(each.label)}</dt></div>" for each in claim.figures)
    return (
        f'<header><p class="over">{text(data.title)}</p><h1>{text(claim.headline)}</h1>'
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
    on_the_way = {
        line["validation"].get("tokens")
        for arm in data.arms
        for stage in arm.stages
        for line in stage.metrics
        if isinstance(line.get("validation"), Mapping)
    }
    finished = {row.quality.tokens for row in data.models if row.quality is not None}
    if len(on_the_way) == 1 and len(finished) == 1 and on_the_way != finished:
        (short,), (long,) = on_the_way, finished
        if isinstance(short, int):
            caption += (
                f" On the way, the first {count(short)} held-out tokens are measured; the finished models, in the "
                f"headline and in their table, on {count(long)}, so their numbers differ a little."
            )
    return section("How the loss fell", pair(plots) + f'<p class="caption">{text(caption)}</p>')


def _costs(data: ReportData, unit: Unit) -> str:
    if not any(arm.stages for arm in data.arms) and not data.shared:
        return ""
    heads = ("Stage", "Parameters", "Tokens", "Compute", "Time", "Peak memory", "Of that, beside training")
    variables = arm_variables(data.arms)
    rows = [Row(["Shared by all arms"], heading=True)] if data.shared else []
    rows += [_stage_row(Change(stage, cost_of(stage), None, None)) for stage in data.shared]
    for arm in data.arms:
        title = arm.name if arm.name == arm.role else f"{arm.name} ({arm.role})"
        rows.append(Row([swatch(variables[arm.name]) + name(title)], heading=True))
        rows += [_stage_row(change) for change in changes_of(arm, unit)]
        if len(arm.stages) > 1:
            rows.append(_sum_row(arm))
    aside = _aside(data.arms)
    remarks = prose(
        "Compute is counted from the operations that ran, the optimizer's own included. The change is the difference "
        "of the held-out loss to the stage before; below zero is better. Growing alone may raise it: what it buys "
        "shows in the stage after.",
        f"Counted in no budget: {aside}." if aside else "",
    )
    plot = cost_plot(data)
    body = table((*heads, UNIT_NAMES[unit], "Change"), rows, words=(0, 6))
    return section("What every step cost and bought", body + (pair([plot, remarks]) if plot else remarks))


def _stage_row(change: Change) -> Row:
    stage, cost = change.stage, change.cost
    parameters = stage.facts.get("parameters")
    return Row(
        [
            name(stage.name) + small(_described(stage)),
            text(count(parameters)) if isinstance(parameters, int | float) else "",
            _some(cost.tokens, count),
            _some(cost.flops, flops),
            _some(cost.seconds, duration),
            _some(cost.peak_memory_bytes, data_size),
            "<br>".join(text(line) for line in _charges(cost.auxiliary)) if cost.tokens else "",
            text(fixed(change.after, 3)) if change.after is not None else "",
            text(signed(change.change, 3)) if change.change is not None else "",
        ]
    )


def _sum_row(arm: Arm) -> Row:
    cost = total_cost(arm.stages)
    counted = [_some(cost.tokens, count), _some(cost.flops, flops), _some(cost.seconds, duration)]
    return Row(["Sum", "", *counted, _some(cost.peak_memory_bytes, data_size), "", "", ""], total=True)


def _described(stage: StageRecord) -> str:
    """The verb of a stage, where its name is another, and its note."""
    kind = stage.kind if stage.kind != stage.name else ""
    return ", ".join(filter(None, (kind, str(stage.facts.get("note") or ""))))


def _charges(charges: Mapping[str, Charge]) -> list[str]:
    """What each purpose cost, without those that cost nothing."""
    lines = []
    for purpose, charge in charges.items():
        parts = [flops(charge.flops) if charge.flops else "", duration(charge.seconds) if charge.seconds else ""]
        if any(parts):
            lines.append(f"{purpose}: {', '.join(filter(None, parts))}")
    return lines


def _aside(arms: Iterable[Arm]) -> str:
    """What was spent on measuring and on sweeps, per arm, as HTML."""
    spent = [(arm.name, _charges(total_cost(arm.stages).aside)) for arm in arms]
    return "; ".join(f"{name(arm)} ({text('; '.join(charges))})" for arm, charges in spent if charges)


def _models(data: ReportData, unit: Unit) -> str:
    if not data.models:
        return ""
    heads = ("Model", "Size", "Parameters", "Bits per weight", "Tokens per second")
    dense = {compressed.name: twin for twin, compressed in compressed_pairs(data)}
    variables = arm_variables(data.arms)
    rows = [_model_row(row, dense.get(row.name), unit, variables.get(row.arm, "")) for row in data.models]
    body = table((*heads, UNIT_NAMES[unit], "Perplexity", "First guess right"), rows)
    folders = "".join(f"<li>{name(row.name)}: <code>{text(row.folder)}</code></li>" for row in data.models)
    tokens = {row.quality.tokens for row in data.models if row.quality is not None}
    remarks = prose(
        f"Every model was measured on the same {text(count(next(iter(tokens))))} held-out tokens."
        if len(tokens) == 1
        else "",
        "Tokens per second: one sequence, written token by token."
        if any(row.decode_tokens_per_second for row in data.models)
        else "",
        "The folders:",
    )
    remarks += f'<ul class="plain">{folders}</ul>'
    plot = size_plot(data)
    return section(
        "Dense against compressed", body + (pair([plot, remarks]) if plot else remarks) + _slices(data, unit)
    )


def _model_row(row: ModelRow, dense: ModelRow | None, unit: Unit, variable: str) -> Row:
    quality, rate = row.quality, row.decode_tokens_per_second
    value = getattr(quality, unit) if quality is not None else None
    size, speed, loss = _against(row, dense, unit)
    return Row(
        [
            swatch(variable) + name(row.name) + small(row.form),
            _some(row.bytes, data_size) + small(size),
            _some(row.parameters, count),
            text(fixed(row.bits_per_weight, 1)) if row.bits_per_weight is not None else "",
            text(fixed(rate, 0)) + small(", ".join(filter(None, (speed, row.decoded_by)))) if rate is not None else "",
            text(fixed(value, 3)) + small(loss) if value is not None else "",
            text(number(quality.perplexity, 3)) if quality is not None else "",
            text(percent(quality.accuracy)) if quality is not None and quality.accuracy is not None else "",
        ]
    )


def _against(row: ModelRow, dense: ModelRow | None, unit: Unit) -> tuple[str, str, str]:
    """Size, speed and loss of a compressed model relative to its dense twin, where both are known."""
    if dense is None:
        return "", "", ""
    size = f"{number(dense.bytes / row.bytes, 2)}{TIMES} smaller" if row.bytes and dense.bytes else ""
    speed = loss = ""
    if dense.decode_tokens_per_second and row.decode_tokens_per_second:
        speed = f"{number(row.decode_tokens_per_second / dense.decode_tokens_per_second, 2)}{TIMES}"
    if row.quality is not None and dense.quality is not None:
        after, before = getattr(row.quality, unit), getattr(dense.quality, unit)
        loss = signed(after - before, 3) if after is not None and before is not None else ""
    return size, speed, loss


def _slices(data: ReportData, unit: Unit) -> str:
    """Loss by part of the held-out text, one column per model."""
    measured = [(row.name, row.quality.slices) for row in data.models if row.quality is not None and row.quality.slices]
    rows = []
    for part in dict.fromkeys(part for _, slices in measured for part in slices):
        values = [getattr(slices[part], unit) if part in slices else None for _, slices in measured]
        rows.append(Row([name(part), *(text(fixed(value, 3)) if value is not None else "" for value in values)]))
    if not rows:
        return ""
    title = f"{UNIT_NAMES[unit].replace('/', ' per ').capitalize()}, by part of the text"
    return f"<h3>{text(title)}</h3>{table(['Part', *(model for model, _ in measured)], rows)}"


def _samples(data: ReportData) -> str:
    if not data.samples:
        return ""
    groups = groupby(data.samples, key=lambda sample: sample.mode)
    body = "".join(f"<h3>{text(mode)}</h3>{''.join(map(_sample, samples))}" for mode, samples in groups)
    return section("What the models write", body)


def _sample(sample: Sample) -> str:
    columns = "".join(
        f'<div><h4>{name(model)}</h4><p class="written" dir="auto">{text(written, lines=True)}</p></div>'
        for model, written in ((model, written.removeprefix(" ")) for model, written in sample.continuations.items())
    )
    prompt = f'<p class="prompt written" dir="auto">{text(sample.prompt.rstrip(), lines=True)}</p>'
    return f'<article class="sample">{prompt}<div class="columns">{columns}</div></article>'


def _recipe(data: ReportData) -> str:
    blocks = []
    if data.recipe:
        blocks.append(f"<pre><code>{text(data.recipe, lines=True)}</code></pre>")
    if data.reproduce:
        commands = text("\n".join(data.reproduce), lines=True)
        blocks.append(f"<h3>To make this report again</h3><pre><code>{commands}</code></pre>")
    return section("The recipe", "".join(blocks)) if blocks else ""


def _facts(data: ReportData) -> str:
    groups = (("Text", data.corpus), ("Machine", data.machine), ("Versions", data.versions))
    lists = "".join(f"<div><h3>{title}</h3>{fact_list(facts)}</div>" for title, facts in groups if facts)
    return section("Text, machine, versions", f'<div class="three">{lists}</div>') if lists else ""


def _some(value: float, shown: Any) -> str:
    """A number as HTML; nothing for zero."""
    return text(shown(value)) if value else ""
