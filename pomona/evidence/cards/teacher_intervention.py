"""Teacher Intervention against plain distillation of a ternary model, with orders of intervention beside it.

A language model is the teacher. Its activations are not cut off at 2.5, a range that was chosen for BERT.

Findings at scale tiny: all orders end within 0.01 nats of plain distillation, and are behind it on the mean along the
way: while the teacher's signals replace the student's, its own attention learns nothing. The best of three rates, each
tried over a whole run, is used by each arm. Errors of four blocks hardly pile up; the paper's teacher has twelve.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import base_lm, training
from pomona.evidence.card import Arm, Card, Metric, Role, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

STEPS: Mapping[Scale, int] = {"tiny": 60, "small": 1200, "gpu": 6000}
"""Of a run; a third of them with intervention."""
RATES = (5e-4, 1e-3, 2e-3)
"""Of AdamW, each tried over a whole run: a part of one would be intervention alone."""
ORDERS: Mapping[str, tuple[Role, dict[str, Any]]] = {
    "plain": ("baseline", {"intervention_steps": 0}),
    "gradual": ("method", {"order": "gradual"}),
    "outputs": ("reference", {"order": "output"}),
    "inverted": ("reference", {"order": "inverted"}),
}


def arms(scale: Scale) -> Mapping[str, Arm]:
    """One ternary copy of the same language model each."""
    shared = {key: value for key, value in training(scale, 0).items() if key != "tokens"}

    def taught(options: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": "student",
            "teacher": "base",
            "method": {
                "method": "teacher-intervention",
                "intervention_steps": STEPS[scale] // 3,
                "clip": None,
                **options,
            },
            "optimizer": {"method": "adamw", "weight_decay": 0.01},
            "sweep": {"learning_rate": list(RATES), "pilot": 1.0},
            "schedule": {"method": "warmup-cosine", "warmup": 0.1, "min_ratio": 0.0},
            "steps": STEPS[scale],
            "engine": {"evaluate_every": STEPS[scale] // 6},
            **shared,
            "batch_size": 8 if scale == "tiny" else shared["batch_size"],
            "validation_tokens": 8192 if scale == "tiny" else shared["validation_tokens"],
        }

    return {name: Arm([*base_lm(scale), {"distil": taught(options)}], role) for name, (role, options) in ORDERS.items()}


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Held-out loss of the quantized student at the end, half-way and on the mean, above the whole model's."""
    from pomona.engine import read_metrics

    student, base = made["student"], made["base"].facts["quality"]["nats_per_token"]
    records = [record for record in read_metrics(student.folder / "metrics.jsonl") if "validation" in record]
    curve = [record["validation"]["nats_per_token"] - base for record in records]
    return {"gap": curve[-1], "gap half-way": curve[len(curve) // 2 - 1], "mean gap": sum(curve) / len(curve)}


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    end, half = table.against("gradual", "plain", "gap"), table.against("gradual", "plain", "gap half-way")
    because = (
        f"with gradual intervention the ternary model ends {end.mean:+.3f} nats from plain distillation "
        f"(p = {end.p:.2g}), half-way {half.mean:+.3f} (p = {half.p:.2g}); plain distillation ends "
        f"{table.mean('plain', 'gap'):.3f} nats above the whole model"
    )
    if end.mean <= -0.02 and end.high < 0:
        return Verdict("reproduced" if half.mean < 0 else "partly", because)
    return Verdict("partly" if end.high < 0 or half.high < 0 else "not reproduced", because)


CARD = Card(
    slug="teacher-intervention",
    claim=(
        "Quantization-aware training of a ternary model converges faster and better if the teacher's attention signals "
        "replace the student's at first."
    ),
    equal="teacher, tokens and their order, steps, losses, schedule, three rates; the teacher runs at every step.",
    rule=(
        "Reproduced: gradual intervention ends at least 0.02 nats below plain distillation, with a 95 % interval below "
        "0, and is below it half-way. Partly: an interval below 0 at the end or half-way. Else not reproduced."
    ),
    metrics=(
        Metric("gap", "held-out nats per token above the whole model, in the end"),
        Metric("gap half-way", "the same after half of the steps"),
        Metric("mean gap", "the same on the mean along the way"),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)
