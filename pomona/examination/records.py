"""What a report is made of: plain values that the stages fill in, and that the report, the card and the terminal read.

A `ReportData` holds arms; an arm is a chain of stages, and what each stage cost stands in the ledger it wrote.
Nothing here computes: the comparison is derived in `comparison`, so that no number is ever stored twice.

Minimal use:

    recipe = Arm("grow and quantize", "recipe", (StageRecord("small", "pretrain", ledger, metrics), ...))
    baseline = Arm("AdamW", "baseline", (StageRecord("adamw", "pretrain", ledger, metrics),))
    write_report(Path("report.html"), ReportData(title="demo", arms=(recipe, baseline), models=rows))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Role = Literal["recipe", "baseline"]

ASIDE = frozenset({"evaluate", "sweep"})
"""Purposes of the ledger that do not make the model: measuring it, and searching a learning rate beforehand.

They are shown in the table of costs, but neither axis nor "equal compute" counts them. For the baseline this is
generous: its sweep comes on top of its budget.
"""


@dataclass(frozen=True)
class StageRecord:
    """One finished stage of an arm.

    Args:
        name: as the recipe calls it, shown to the reader ("small", "grown").
        kind: the verb: corpus, tokenizer, pretrain, continue, grow, prune, quantize, export, examine. `grow`,
            `prune` and `quantize` are marked in the curves.
        ledger: `Ledger.to_dict()` of this stage alone: `purposes` ({purpose: {flops, seconds, tokens}}),
            `steps`, `peak_memory_bytes`. The purposes in `ASIDE` are kept apart. Absent entries count as zero.
        metrics: the lines of this stage's metrics.jsonl, in order. `tokens`, `flops` and `seconds` are counted
            from the start of *this stage* and without the purposes in `ASIDE`; what came before is added here.
            Read are `{step, tokens, flops, seconds, loss, bits_per_byte}` (of the training batch; loss in nats per
            token) and `{..., validation: {nats_per_token, bits_per_byte}}`; everything else is ignored.
        facts: what else is known about the result. Read when present:
            `parameters` (int, after the stage), `quality` ({nats_per_token, bits_per_byte, accuracy} after the
            stage; otherwise the last validation of `metrics` is taken), `note` (one line for the table, such as
            "3 blocks to 6, g_stack").
    """

    name: str
    kind: str
    ledger: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """A chain of stages, each continuing from the one before, that is compared with other arms at equal compute.

    Args:
        name: shown to the reader and used as the label of its line; unique within a report.
        role: "recipe" for what is on trial, "baseline" for what it is measured against.
        stages: in the order in which they ran. Work that all arms share (corpus, tokenizer) belongs into
            `ReportData.shared` instead.
    """

    name: str
    role: Role
    stages: tuple[StageRecord, ...]


@dataclass(frozen=True)
class Examination:
    """How well one model predicts held-out text. `examine` makes it.

    Args:
        nats_per_token: mean negative log-likelihood, natural logarithm.
        bits_per_byte: the same in bits per UTF-8 byte of text, comparable across tokenizers; None without byte counts.
        perplexity: exp(nats_per_token).
        accuracy: fraction of tokens that were the model's first guess, in [0, 1]; None when not counted.
        tokens: predicted tokens; bytes: UTF-8 bytes that they stand for.
        slices: the same for named parts of the held-out text.
    """

    nats_per_token: float
    bits_per_byte: float | None
    perplexity: float
    accuracy: float | None
    tokens: int
    bytes: int
    slices: Mapping[str, Examination] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelRow:
    """One exported model folder.

    Args:
        name: shown to the reader; unique within a report.
        folder: path as the user should type it.
        bytes: everything in the folder that is needed to run the model.
        parameters: weights that the model computes with (packed weights count as what they unpack to).
        quality: measured on the same held-out tokens for every row of a report; None when it was not measured.
        decode_tokens_per_second: writing one sequence; None when it was not measured.
        bits_per_weight: stored bits of all weight files per parameter; None when unknown.
        arm: name of the `Arm` that made it.
        form: "dense", or how it is compressed, in the words for the reader ("4-bit, groups of 128").
        decoded_by: what wrote the tokens whose speed was measured ("bf16, compiled", "int4 kernel").
    """

    name: str
    folder: str
    bytes: int
    parameters: int
    quality: Examination | None = None
    decode_tokens_per_second: float | None = None
    bits_per_weight: float | None = None
    arm: str = ""
    form: str = "dense"
    decoded_by: str = ""


@dataclass(frozen=True)
class Sample:
    """Continuations of one prompt by several models.

    Args:
        prompt: what every model was given.
        continuations: name of the model -> what it wrote after the prompt.
        mode: how the next token was chosen, for the reader ("greedy", "sampled at temperature 0.8, seed 0").
    """

    prompt: str
    continuations: Mapping[str, str]
    mode: str = "greedy"


@dataclass(frozen=True)
class ReportData:
    """Everything a report says.

    Args:
        title: of the report, usually the recipe's title.
        arms: the recipe and its baselines. Any number of either; the headline compares the first recipe with the
            strongest baseline.
        models: exported folders, dense first.
        samples: see `Sample`.
        shared: stages that every arm builds on (corpus, tokenizer); charged to no arm.
        recipe: text of the recipe as it ran (YAML).
        corpus: facts about the text, in the order to show: {"documents": 31234, "bytes": 46_000_000,
            "fingerprint": "9f...", "sources": {"env:docs": 31234}}. Keys are shown as they are, `_` as a space;
            a nested mapping becomes a list.
        machine: `Machine.asdict()`; versions: {"pomona": "0.1.0", "torch": ...}.
        reproduce: commands, one per line, that make the same report again.
        notes: remarks the reader needs in order to judge (one seed, tokens seen twice, ...).
    """

    title: str
    arms: tuple[Arm, ...]
    models: tuple[ModelRow, ...] = ()
    samples: tuple[Sample, ...] = ()
    shared: tuple[StageRecord, ...] = ()
    recipe: str = ""
    corpus: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    reproduce: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReportData:
        """The inverse of `to_dict`."""
        return cls(
            **{
                **values,
                "arms": tuple(
                    Arm(arm["name"], arm["role"], tuple(StageRecord(**stage) for stage in arm["stages"]))
                    for arm in values["arms"]
                ),
                "models": tuple(
                    ModelRow(**{**row, "quality": row.get("quality") and examination_from_dict(row["quality"])})
                    for row in values.get("models", ())
                ),
                "samples": tuple(Sample(**sample) for sample in values.get("samples", ())),
                "shared": tuple(StageRecord(**stage) for stage in values.get("shared", ())),
                "reproduce": tuple(values.get("reproduce", ())),
                "notes": tuple(values.get("notes", ())),
            }
        )


def examination_from_dict(values: Mapping[str, Any]) -> Examination:
    """The inverse of `dataclasses.asdict` for an `Examination`."""
    slices = {name: examination_from_dict(part) for name, part in values.get("slices", {}).items()}
    return Examination(**{**values, "slices": slices})
