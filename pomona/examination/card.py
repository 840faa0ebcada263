"""README.md of a model folder, in Hugging Face's form: what the model is, how it was made, and how good it is.

The front matter is YAML written by a YAML writer, and every string of the body passes through `_text` or stands in a
code block that it cannot end, so that a name cannot become markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pomona.examination.comparison import UNIT_NAMES, Unit, changes_of, total_cost, unit_of
from pomona.examination.records import Arm, ModelRow, ReportData
from pomona.examination.units import count, data_size, duration, fixed, flops, percent, signed, visible
from pomona.ground.files import write_text


@dataclass(frozen=True)
class CardData:
    """What a model card says.

    Args:
        model: the folder's row; its `quality` is what the card reports.
        arm: the stages that made the model, with their ledgers; None when they are not known.
        license: identifier of the Hub ("apache-2.0", "cc-by-4.0", "other", ...). "unknown" says so: the licence of the
            weights is for whoever publishes them to decide, in view of the text they were trained on.
        language: ISO 639-1 codes of the text.
        base_model: Hub ids or folders that training began from; none for a model trained from scratch.
        parents: of a merged model, what is known of the models that went into it: `role`, `name`, `license`, `weight`
            (of an expert) and `fingerprint` (of its weights).
        architecture: class that transformers loads it with.
        task: the Hub's `pipeline_tag`.
        recipe: text of the recipe (YAML).
        corpus: facts about the text, `fingerprint` among them; as in `ReportData.corpus`.
        machine: as in `ReportData`. versions: likewise.
        notes: remarks for the reader (limits, intended use).
        evaluated_on: name of the held-out text, for the front matter's results.
    """

    model: ModelRow
    arm: Arm | None = None
    license: str = "unknown"
    language: tuple[str, ...] = ("en",)
    base_model: tuple[str, ...] = ()
    parents: Sequence[Mapping[str, Any]] = ()
    architecture: str = "AutoModelForCausalLM"
    task: str = "text-generation"
    recipe: str = ""
    corpus: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    evaluated_on: str = "held-out text of the training corpus"


def write_card(folder: Path, data: CardData) -> None:
    """Write README.md into a model folder, atomically. The same data give the same bytes."""
    write_text(folder / "README.md", card_text(data))


def card_text(data: CardData) -> str:
    """The card as text; see `write_card`."""
    row = data.model
    parts = [f"---\n{_front_matter(data)}---\n", f"# {_text(row.name)}\n", _opening(data) + "\n"]
    parts += [_use(data), _quality(data), _parents(data), _making(data), _corpus(data)]
    if data.recipe:
        parts.append(f"## Recipe\n\n{_fenced(data.recipe, 'yaml')}")
    where = {**data.machine, **data.versions}
    if where:
        parts.append(f"## Machine and versions\n\n{_fact_lines(where)}")
    if data.notes:
        parts.append("## Remarks\n\n" + "".join(f"- {_text(note)}\n" for note in data.notes))
    return "\n".join(part for part in parts if part)


def _front_matter(data: CardData) -> str:
    import yaml

    row = data.model
    tags = ["pomona", *(["compressed-tensors"] if row.form != "dense" else []), *(["merge"] if data.parents else [])]
    values: dict[str, Any] = {
        "license": visible(data.license),
        "language": [visible(code) for code in data.language],
        "library_name": "transformers",
        "pipeline_tag": visible(data.task),
        "tags": tags,
    }
    if data.base_model:
        names = [visible(name) for name in data.base_model]
        values["base_model"] = names if len(names) > 1 else names[0]
    if row.quality is not None:
        metrics = [{"type": "perplexity", "name": "Perplexity", "value": round(row.quality.perplexity, 4)}]
        if row.quality.bits_per_byte is not None:
            bits = round(row.quality.bits_per_byte, 4)
            metrics.insert(0, {"type": "bits_per_byte", "name": "Bits per byte", "value": bits})
        if row.quality.accuracy is not None:
            right = round(row.quality.accuracy, 4)
            metrics.append({"type": "accuracy", "name": _accuracy(data).capitalize(), "value": right})
        dataset = {"name": visible(data.evaluated_on), "type": "text"}
        result = {"task": {"type": visible(data.task)}, "dataset": dataset, "metrics": metrics}
        values["model-index"] = [{"name": visible(row.name), "results": [result]}]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def _opening(data: CardData) -> str:
    row = data.model
    form = "" if row.form == "dense" else f", compressed to {_text(row.form)}"
    bits = f", {fixed(row.bits_per_weight, 1)} bits per weight" if row.bits_per_weight is not None else ""
    origin = (
        f"continued from {' and '.join(map(_text, data.base_model))}" if data.base_model else "trained from scratch"
    )
    if data.parents:
        origin = "merged from " + " and ".join(_text(str(each["name"])) for each in data.parents)
    return (
        f"A language model of {count(row.parameters)} parameters, {origin}{form}; "
        f"{data_size(row.bytes)} on disk{bits}. Made with pomona; every number below was measured."
    )


def _use(data: CardData) -> str:
    extra = " compressed-tensors" if data.model.form != "dense" else ""
    folder = repr(visible(data.model.folder))
    model_class = data.architecture if data.architecture.isidentifier() else "AutoModel"
    if data.task.startswith("image"):
        return f"## Use\n\n{_fenced(_code_for_pictures(model_class, folder, extra), 'python')}"
    code = (
        f"# pip install torch transformers{extra}\n"
        f"from transformers import AutoTokenizer, {model_class}\n\n"
        f"folder = {folder}\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        f"model = {model_class}.from_pretrained(folder)\n"
    )
    if data.task == "text-generation":
        code += (
            'inputs = tokenizer("Return the", return_tensors="pt", return_token_type_ids=False)\n'
            "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))\n"
        )
    return f"## Use\n\n{_fenced(code, 'python')}"


def _code_for_pictures(model_class: str, folder: str, extra: str) -> str:
    """From a file to what the model says of it."""
    answer = "logits" if model_class.endswith("ForImageClassification") else "last_hidden_state"
    return (
        f"# pip install torch transformers pillow{extra}\n"
        "from PIL import Image\n"
        f"from transformers import AutoImageProcessor, {model_class}\n\n"
        f"folder = {folder}\n"
        "processor = AutoImageProcessor.from_pretrained(folder)\n"
        f"model = {model_class}.from_pretrained(folder)\n"
        'inputs = processor(Image.open("picture.png"), return_tensors="pt")\n'
        f"print(model(**inputs).{answer})\n"
    )


def _quality(data: CardData) -> str:
    quality = data.model.quality
    if quality is None:
        return ""
    rows = [("all", quality), *quality.slices.items()]
    heads = ["held-out text", "bits per byte", "nats per token", "perplexity", _accuracy(data), "tokens"]
    if data.task.startswith("image"):
        heads[0], heads[2], heads[-1] = "held-out pictures", "nats per target", "targets"
    lines = [
        [
            _text(name),
            fixed(part.bits_per_byte, 3) if part.bits_per_byte is not None else "",
            fixed(part.nats_per_token, 3),
            fixed(part.perplexity, 2),
            percent(part.accuracy) if part.accuracy is not None else "",
            f"{part.tokens:,}",
        ]
        for name, part in rows
    ]
    speed = data.model.decode_tokens_per_second
    tail = ""
    if speed is not None:
        by = f" ({_text(data.model.decoded_by)})" if data.model.decoded_by else ""
        tail = f"\nDecoding, one sequence: {fixed(speed, 0)} tokens per second{by}.\n"
    return f"## Quality\n\nMeasured on {_text(data.evaluated_on)}.\n\n{_table(heads, lines)}{tail}"


def _accuracy(data: CardData) -> str:
    """What a first guess is right about."""
    return "next-token accuracy" if data.task == "text-generation" else "accuracy"


def _parents(data: CardData) -> str:
    if not data.parents:
        return ""
    heads = ["model", "part", "licence", "fingerprint of its weights", "weight"]
    lines = [
        [
            _text(str(each["name"])),
            _text(str(each["role"])),
            _text(str(each.get("license") or "unknown")),
            _text(str(each["fingerprint"])),
            fixed(each["weight"], 2) if each.get("weight") is not None else "",
        ]
        for each in data.parents
    ]
    known = any(each.get("license") for each in data.parents)
    tail = "\nThe licence of this model has to agree with theirs.\n" if known else ""
    return f"## Parents\n\n{_table(heads, lines, left=4)}{tail}"


def _making(data: CardData) -> str:
    arm = data.arm
    if arm is None or not arm.stages:
        return ""
    unit: Unit = unit_of(ReportData("", (arm,)))
    heads = ["stage", "what", "parameters", "tokens", "compute", "time", "peak memory", UNIT_NAMES[unit], "change"]
    lines = []
    for change in changes_of(arm, unit):
        stage, cost = change.stage, change.cost
        parameters = stage.facts.get("parameters")
        lines.append(
            [
                _text(stage.name),
                _text(", ".join(part for part in (stage.kind, str(stage.facts.get("note") or "")) if part)),
                count(parameters) if isinstance(parameters, int) else "",
                count(cost.tokens) if cost.tokens else "",
                flops(cost.flops) if cost.flops else "",
                duration(cost.seconds) if cost.seconds else "",
                data_size(cost.peak_memory_bytes) if cost.peak_memory_bytes else "",
                fixed(change.after, 3) if change.after is not None else "",
                signed(change.change, 3) if change.change is not None else "",
            ]
        )
    total = total_cost(arm.stages)
    lines.append(["sum", "", "", count(total.tokens), flops(total.flops), duration(total.seconds), "", "", ""])
    aside = "; ".join(
        f"{_text(purpose)} {', '.join([*([flops(charge.flops)] if charge.flops else []), duration(charge.seconds)])}"
        for purpose, charge in total.aside.items()
    )
    tail = f"\nBeside this, counted in no budget: {aside}.\n" if aside else ""
    return f"## How it was made\n\n{_table(heads, lines, left=2)}{tail}"


def _corpus(data: CardData) -> str:
    return f"## Text it was trained on\n\n{_fact_lines(data.corpus)}" if data.corpus else ""


def _fact_lines(facts: Mapping[str, Any]) -> str:
    return "".join(
        f"- {_text(str(key).replace('_', ' '))}: {_fact(value)}\n" for key, value in facts.items() if value is not None
    )


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_text(str(name))} {_fact(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_fact(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else _text(str(value))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns hold text and whose others hold numbers."""
    lines = [heads, [*["---"] * left, *["---:"] * (len(heads) - left)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    shown = visible(text, lines=True).rstrip("\n")
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", shown)), 3)
    return f"{fence}{language}\n{shown}\n{fence}\n"


def _text(text: str) -> str:
    """A string as markdown that shows it: nothing in it is markup, a link, an entity or a cell's end."""
    escaped = re.sub(
        r"([\\`*{}\[\]()|~$]|(?<!\w)_|_(?!\w)|^\s*(?:[#+=-]|\d+[.)](?=\s|$)))", _escape, visible(text).strip()
    )
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?i)(www|https?|ftp|mailto)([.:])", r"\1&#8203;\2", escaped)


def _escape(found: re.Match[str]) -> str:
    return f"{found[0][:-1]}\\{found[0][-1]}"
