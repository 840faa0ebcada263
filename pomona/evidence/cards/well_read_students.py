"""Pre-training, distilling and tuning a compact encoder, against leaving out steps, at equal FLOPs on the task.

Findings at scale tiny: students end within the spread of the seeds. 400 steps of masked language modelling leave the
plateau of the loss hardly behind them, and the teacher itself, tuned on few labels, is no better than its students.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import DATA_SEED, MINILM
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

DOWNSTREAM: Mapping[Scale, float] = {"tiny": 1.5e12, "small": 1.0e13, "gpu": 1.0e16}
"""FLOPs of distilling and tuning together, the teacher's included."""
TUNING = 0.25
"""Share of them that is left for tuning after distillation."""
PRETRAINING: Mapping[Scale, int] = {"tiny": 400, "small": 10_000, "gpu": 100_000}
"""Steps."""
CLASSES, LABELLED, TRANSFER = 8, 70, 400
"""Packages, and how many modules of each have labels, or are text to be labelled by the teacher."""


def text() -> list[Any]:
    """Documentation in the teacher's tokens, a few labelled modules, and more of them; and the tuned teacher."""
    rows = {"sources": ["env:docs"], "classes": CLASSES}
    read = {"seq_length": 64, "batch_size": 16, "examples": "labelled", "seed": DATA_SEED}
    optimizer = {"method": "adamw", "learning_rate": 1e-4}
    return [
        {"corpus": {"sources": ["env:docs"], "validation": 0.02, "seed": DATA_SEED}},
        {"tokenize": {"tokenizer": MINILM}},
        {"examples": {"name": "labelled", "per_class": LABELLED, **rows}},
        {"examples": {"name": "transfer", "per_class": TRANSFER, **rows}},
        {"adapt": {"name": "teacher", "from": MINILM, "epochs": 3, "optimizer": optimizer, **read}},
    ]


def arms(scale: Scale) -> Mapping[str, Arm]:
    """With and without pre-training, with and without distillation; all are tuned on the labels."""
    from pomona.distillation.well_read_students import compact

    model = compact("tiny", "modernbert", max_position_embeddings=128, classifier_pooling="mean")
    read = {"seq_length": 64, "batch_size": 16}
    sweep = {"learning_rate": [5e-4, 1.5e-3], "pilot": 0.3}
    reading = {
        "name": "start",
        "model": model,
        "objective": "masked-lm",
        "optimizer": {"method": "adamw", "learning_rate": 2e-3, "beta2": 0.999, "weight_decay": 0.01},
        "batch_size": 32,
        "seq_length": 64,
        "validation_tokens": 2048,
    }
    unread = {**reading, "steps": 1, "optimizer": {"method": "adamw", "learning_rate": 1e-9}}

    def student(pretrained: bool, distilled: bool) -> list[Any]:
        start = {**reading, "steps": PRETRAINING[scale]} if pretrained else unread
        taught = {
            "name": "taught",
            "teacher": "teacher",
            "from": "start",
            "method": "well-read-students",
            "examples": "transfer",
            "flops": (1 - TUNING) * DOWNSTREAM[scale],
            "optimizer": {"method": "adamw", "learning_rate": 1e-3},
            **read,
        }
        tuned = {
            "name": "tuned",
            "from": "taught" if distilled else "start",
            "examples": "labelled",
            "flops": (TUNING if distilled else 1.0) * DOWNSTREAM[scale],
            "sweep": sweep,
            **read,
        }
        return [*text(), {"pretrain": start}, *([{"distil": taught}] if distilled else []), {"adapt": tuned}]

    return {
        "scratch": Arm(student(False, False), "baseline"),
        "distilled": Arm(student(False, True), "baseline"),
        "pre-trained": Arm(student(True, False), "baseline"),
        "both": Arm(student(True, True)),
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Accuracy on the test part, and of the teacher."""
    found = {"accuracy": 100 * made["tuned"].facts["accuracy"], "teacher": 100 * made["teacher"].facts["accuracy"]}
    return found | ({"before tuning": 100 * made["taught"].facts["accuracy"]} if "taught" in made else {})


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    rest = ("pre-trained", "distilled", "scratch")
    against = {arm: table.against("both", arm, "accuracy") for arm in rest}
    single = {arm: table.against(arm, "scratch", "accuracy") for arm in rest[:2]}
    shown = ", ".join(f"{gain.mean:+.1f} points from {arm} (p = {gain.p:.2g})" for arm, gain in against.items())
    because = f"pre-trained distillation is {shown}; the teacher is at {table.mean('both', 'teacher'):.1f} %"
    if all(gain.mean > 0 for gain in (*against.values(), *single.values())) and against["scratch"].low > 0:
        better = all(min(gain.differences) > 0 for gain in against.values())
        return Verdict("reproduced" if better else "partly", because)
    return Verdict("partly" if against["scratch"].low > 0 else "not reproduced", because)


CARD = Card(
    slug="well-read-students",
    claim=(
        "Pre-training the small model and distilling the large one's labels into it add up: both beat either, and "
        "either beats neither."
    ),
    equal="FLOPs after pre-training, the teacher's included; student, labels, two rates; pre-training is extra.",
    rule=(
        "Reproduced: with both, accuracy is above each other arm at every seed, either step alone is above scratch in "
        "the mean, and the 95 % interval against scratch lies above 0. Partly: that interval. Else not reproduced."
    ),
    metrics=(
        Metric("accuracy", "% of held-out texts, after tuning", "higher"),
        Metric("before tuning", "% of held-out texts, after distillation", "higher"),
        Metric("teacher", "% of held-out texts", "higher"),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)
