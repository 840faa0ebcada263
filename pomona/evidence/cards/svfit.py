"""Singular values alone against LoRA and against the head alone, on labelling docstrings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pomona.evidence.assets import task
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact


def arms(scale: Scale) -> Mapping[str, Arm]:
    """The same task by the head alone, LoRA, and singular values: all of them, and those that hold 99 % of energy."""
    low, high = (5e-4, 2e-3, 8e-3), (3e-3, 1e-2, 3e-2)
    return {
        "head": Arm(task(scale, "adapted", low, method="head"), "baseline"),
        "lora": Arm(task(scale, "adapted", low, method="lora", rank=8), "baseline"),
        "svfit": Arm(task(scale, "adapted", high, method="svfit")),
        "svfit, 99 %": Arm(task(scale, "adapted", high, method="svfit", energy=0.99)),
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Accuracy on docstrings of other modules, and how many parameters were trained besides the head."""
    facts = made["adapted"].facts
    return {"accuracy": facts["accuracy"], "trained": facts["trained_parameters"], "macro-F1": facts["macro_f1"]}


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    lora, head = (table.against("svfit", other, "accuracy").mean for other in ("lora", "head"))
    trained, of_lora, of_head = (table.mean(arm, "trained") for arm in ("svfit", "lora", "head"))
    because = (
        f"singular values are {100 * lora:+.1f} points from LoRA and {100 * head:+.1f} from the head alone, with "
        f"{trained - of_head:,.0f} trained parameters to LoRA's {of_lora - of_head:,.0f}"
    )
    if lora >= -0.015 and head >= 0.01:
        return Verdict("reproduced", because)
    return Verdict("not reproduced" if head <= 0.005 or lora <= -0.03 else "partly", because)


CARD = Card(
    slug="svfit",
    claim="Training the singular values of queries and values alone is as good as LoRA with many times the parameters.",
    equal="model, data and their order, steps, targets, batch, as many learning rates in each sweep; the head's rate.",
    rule=(
        "Reproduced: the mean accuracy is at most 1.5 points below LoRA's and at least 1 point above the head alone. "
        "Else not reproduced where it is within 0.5 points of the head or more than 3 below LoRA; partly in between."
    ),
    metrics=(
        Metric("accuracy", "share of test docstrings", "higher"),
        Metric("trained", "parameters, the head's included"),
        Metric("macro-F1", "mean over packages", "higher"),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)
