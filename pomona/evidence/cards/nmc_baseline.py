"""Class means of a frozen encoder against heads that are trained in sequence, on docstrings by package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pomona.evidence.assets import HEAD_RATES, classes_in_turn, trained_head
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact


def arms(scale: Scale) -> Mapping[str, Arm]:
    """Ten sessions of two classes by means and by a trained head at three rates; all classes at once by that head."""
    at_once = classes_in_turn(scale, 20, "learnt", rate=0.03, method="sequential-probe", passes=40)
    return {
        "means": Arm(classes_in_turn(scale, 2, "learnt", method="nmc-baseline")),
        **trained_head(scale, 2),
        "head at once": Arm(at_once, "reference"),
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Accuracy over all classes in the end, over the sessions, and what was lost on the way."""
    facts = made["learnt"].facts
    return {
        "last": facts["last_accuracy"],
        "average": facts["average_accuracy"],
        "forgetting": facts["forgetting"],
        "bytes": facts["state_bytes"],
    }


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    best = max((f"head at {rate:g}" for rate in HEAD_RATES), key=lambda arm: table.mean(arm, "last"))
    lead = table.against("means", best, "last").mean
    share = table.mean("means", "last") / max(1e-9, table.mean("head at once", "last"))
    because = (
        f"means are {100 * lead:+.1f} points from the best trained head ({best}) after the last session, and reach "
        f"{share:.0%} of the head that sees all classes at once"
    )
    if lead > 0.01 and share >= 0.85:
        return Verdict("reproduced", because)
    return Verdict("not reproduced" if lead < -0.01 else "partly", because)


CARD = Card(
    slug="nmc-baseline",
    claim="Class means of a frozen model are as good as heads that are trained in sequence, without any training.",
    equal="model, features, texts, sessions and their order; the trained head has the best of three rates.",
    rule=(
        "Reproduced: in the end the means are more than 1 point above the best trained head, and reach 85 % of the "
        "accuracy of the head that sees all classes at once. Else not reproduced where they are more than 1 point "
        "below the best trained head; partly in between."
    ),
    metrics=(
        Metric("last", "share of test docstrings, in the end", "higher"),
        Metric("average", "mean over the sessions", "higher"),
        Metric("forgetting", "share"),
        Metric("bytes", "kept of the sessions"),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)
