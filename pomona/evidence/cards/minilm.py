"""MiniLM against masked language modelling: a new encoder, taught by a real one, at equal FLOPs, tuned on a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import DATA_SEED, MINILM, prenorm_encoder
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

FLOPS: Mapping[Scale, float] = {"tiny": 6.0e12, "small": 1.0e14, "gpu": 1.0e18}
"""Of an arm before the task, the teacher's included."""
STUDENT = prenorm_encoder(192, 3, 12)
"""Half the teacher's depth and width, as many heads."""
PACKAGES, PER_CLASS = 8, 160


def text() -> list[Any]:
    """Documentation in the teacher's tokens, and documented modules labelled by their package."""
    return [
        {"corpus": {"sources": ["env:docs"], "validation": 0.02, "seed": DATA_SEED}},
        {"tokenize": {"tokenizer": MINILM}},
        {"examples": {"name": "packages", "sources": ["env:docs"], "classes": PACKAGES, "per_class": PER_CLASS}},
    ]


def arms(scale: Scale) -> Mapping[str, Arm]:
    """One student for each way to train it, then two classifiers of it: all of it tuned, and a head alone."""
    training = {
        "name": "student",
        "model": STUDENT,
        "objective": "masked-lm",
        "optimizer": {"method": "adamw", "beta2": 0.999, "weight_decay": 0.01},
        "sweep": {"learning_rate": [1e-3, 3e-3], "pilot": 0.2},
        "schedule": {"method": "warmup-cosine", "warmup": 0.05, "min_ratio": 0.0},
        "batch_size": 12 if scale == "tiny" else 64,
        "seq_length": 64,
        "flops": FLOPS[scale],
        "validation_tokens": 2048,
    }
    task = {"examples": "packages", "from": "student", "seq_length": 64, "batch_size": 16}
    tuned = {**task, "name": "tuned", "epochs": 3, "sweep": {"learning_rate": [3e-4, 1e-3], "pilot": 0.3}}
    probe = {
        **task,
        "name": "probe",
        "method": "head",
        "epochs": 6,
        "sweep": {"learning_rate": [0.01, 0.03], "pilot": 0.3},
    }

    def taught(**method: Any) -> list[Any]:
        stage = {**training, "teacher": MINILM, "method": "minilm", **method}
        return [*text(), {"distil": stage}, {"adapt": tuned}, {"adapt": probe}]

    return {
        "masked-lm": Arm([*text(), {"pretrain": training}, {"adapt": tuned}, {"adapt": probe}], "baseline"),
        "minilm": Arm(taught()),
        "attention alone": Arm(taught(value_relations=False), "reference"),
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Accuracy on the test part: all of the student tuned, and a head alone."""
    return {"accuracy": 100 * made["tuned"].facts["accuracy"], "probe": 100 * made["probe"].facts["accuracy"]}


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    gain, values = (
        table.against("minilm", "masked-lm", "accuracy"),
        table.against("minilm", "attention alone", "accuracy"),
    )
    probe = table.against("minilm", "masked-lm", "probe")
    because = (
        f"tuned on the task, MiniLM's students are {gain.mean:+.1f} points from those of masked language modelling "
        f"(p = {gain.p:.2g}) and {values.mean:+.1f} from those without value relations; a head alone: {probe.mean:+.1f}"
    )
    if gain.mean >= 3 and gain.low > 0:
        return Verdict("reproduced" if values.mean >= 0 else "partly", because)
    return Verdict("partly" if gain.mean > 0 and min(gain.differences) > 0 else "not reproduced", because)


CARD = Card(
    slug="minilm",
    claim=(
        "A small encoder that copies the last block's attention and value relations of a large one serves tasks better "
        "than one that is pre-trained alone; the values' relations add to the attention's."
    ),
    equal="FLOPs with the teacher's included, student, text and its order, schedule, two rates at every step.",
    rule=(
        "Reproduced: mean accuracy after tuning is at least 3 points above masked language modelling, with a 95 % "
        "interval above 0, and not below that without value relations. Partly: the first alone, or above at every "
        "seed. Else not reproduced."
    ),
    metrics=(
        Metric("accuracy", "% of held-out texts, all of the student tuned", "higher"),
        Metric("probe", "% of held-out texts, a head alone", "higher"),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)
