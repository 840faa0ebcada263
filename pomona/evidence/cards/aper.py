"""APER against SimpleCIL and against a head that is trained in sequence, on docstrings by package.

Findings at scale tiny: SimpleCIL is 34 points above the best head trained in sequence, as the paper says. A copy
that is adapted to 36 texts of each of 8 classes adds nothing to it: at 1e-3 it loses 1.5 points, at 3e-4 0.1. The
encoder was trained on sentences, and docstrings are some; the paper's gains are on images far from those of ImageNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pomona.evidence.assets import HEAD_RATES, classes_in_turn, trained_head
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

FIRST = 8


def arms(scale: Scale) -> Mapping[str, Arm]:
    """Eight classes, then two at a time: the model alone, with a copy adapted by LoRA at two rates, and a head that is
    trained in sequence at three."""
    adapted = {"method": "aper", "adapter": {"method": "lora", "rank": 8}, "epochs": 4, "batch_size": 32}
    rates = {"aper": 1e-3, "aper, slower": 3e-4}
    return {
        "simplecil": Arm(classes_in_turn(scale, FIRST, "learnt", method="aper", adapted=False), "baseline"),
        **trained_head(scale, FIRST),
        **{
            name: Arm(
                classes_in_turn(
                    scale,
                    FIRST,
                    "learnt",
                    **adapted,
                    optimizer={"method": "adamw", "learning_rate": rate, "head_learning_rate": 5e-3, "beta2": 0.999},
                )
            )
            for name, rate in rates.items()
        },
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Accuracy over all classes in the end, over the sessions, and what was lost on the way."""
    facts = made["learnt"].facts
    return {
        "last": facts["last_accuracy"],
        "average": facts["average_accuracy"],
        "forgetting": facts["forgetting"],
    }


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    over_simple = table.against("aper", "simplecil", "last").mean
    best = max((f"head at {rate:g}" for rate in HEAD_RATES), key=lambda arm: table.mean(arm, "last"))
    over_head = table.against("simplecil", best, "last").mean
    because = (
        f"adapted features beside the model's own are {100 * over_simple:+.1f} points from the model's alone in the "
        f"end, and those {100 * over_head:+.1f} from the best head that is trained in sequence"
    )
    if over_simple >= 0.01 and over_head >= 0.05:
        return Verdict("reproduced", because)
    return Verdict("not reproduced" if over_simple < -0.01 or over_head <= 0.0 else "partly", because)


CARD = Card(
    slug="aper",
    claim="A copy adapted to the first session, beside the model itself, makes class means better for all sessions.",
    equal=(
        "model, texts, sessions and their order; no arm sees earlier texts. The rate of `aper` was fixed beforehand, "
        "the trained head has the best of three."
    ),
    rule=(
        "Reproduced: in the end `aper` is at least 1 point above SimpleCIL (the model alone), and that at least 5 "
        "above the best head trained in sequence. Else not reproduced where `aper` is more than 1 point below "
        "SimpleCIL, or that is not above the head; partly in between."
    ),
    metrics=(
        Metric("last", "share of test docstrings, in the end", "higher"),
        Metric("average", "mean over the sessions", "higher"),
        Metric("forgetting", "share"),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)
