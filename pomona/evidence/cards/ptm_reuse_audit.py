"""Audits of trained classifiers with planted defects, next to looking at whether the model card is complete."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pomona.evidence.card import Arm, Metric, Scale, Verdict
from pomona.evidence.direct import DirectCard
from pomona.registry import audit
from pomona.registry.readme import SECTIONS, read_card

if TYPE_CHECKING:
    from pomona.evidence.planted_models import Sample
    from pomona.evidence.table import Table

CERTAIN = 0.1
"""A claim that is too high by so much counts among the defects that have to be found; smaller ones are told apart."""
NOT_SAID = ("licence",)
"""Defects that a look at the card shows; the others lie in what the model is and does."""


def arms(scale: Scale) -> Mapping[str, Arm]:
    """Both are given the same packages and the same 500 items."""
    return {"completeness": Arm([], "baseline"), "audit": Arm([])}


def attempt(scale: Scale, arm: str, seed: int, folder: Path) -> dict[str, float]:
    """Plant, audit, and count what was found of what was planted."""
    from pomona.evidence.planted_models import grow

    samples = grow(folder, seed)
    start = time.perf_counter()
    found = [seen_by_audit(one) if arm == "audit" else seen_in_card(one) for one in samples]
    seconds = time.perf_counter() - start
    pairs = list(zip(samples, found, strict=True))
    certain = [(one, seen) for one, seen in pairs if one.defects and (not one.excess or one.excess >= CERTAIN)]
    hits = sum(len(one.defects & seen) for one, seen in certain)
    alarms = sum(len(seen - one.defects) for one, seen in pairs)
    clean = [seen for one, seen in pairs if not one.defects]
    behaving = [(one, seen) for one, seen in certain if not one.defects & set(NOT_SAID)]
    power = {
        excess: [bool(seen & {"false claim"}) for one, seen in pairs if math.isclose(one.excess, excess)]
        for excess in (0.02, 0.05, 0.1)
    }
    return {
        "recall": hits / sum(len(one.defects) for one, _ in certain),
        "precision": hits / (hits + alarms) if hits + alarms else 0.0,
        "clean with alarms": sum(map(bool, clean)) / len(clean),
        "recall of behaviour": sum(len(one.defects & seen) for one, seen in behaving) / len(behaving),
        **{f"found at {excess:.0%}": sum(seen) / len(seen) for excess, seen in power.items()},
        "seconds": seconds / len(samples),
    }


def seen_by_audit(sample: Sample) -> set[str]:
    """Defects among the audit's errors, and a licence that is not named."""
    from pomona.evidence.planted_models import DATASET, SPLIT

    found = audit(sample.folder, sample.items, dataset=DATASET, split=SPLIT)
    return {one.defect for one in found.at("error")} | (found.defects & {"licence"})


def seen_in_card(sample: Sample) -> set[str]:
    """What a look at the headings shows."""
    card = read_card((sample.folder / "README.md").read_text(encoding="utf-8"))
    missing = {"card"} if len(card.sections) < len(SECTIONS) else set()
    return missing | (set() if card.licence else {"licence"})


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    recall, precision = table.mean("audit", "recall"), table.mean("audit", "precision")
    alarms, five = table.mean("audit", "clean with alarms"), table.mean("audit", "found at 5%")
    plain = table.mean("completeness", "recall of behaviour")
    because = (
        f"recall {recall:.2f} at precision {precision:.2f}; claims that are 5 points too high are seen in {five:.0%}, "
        f"alarms on {alarms:.0%} of the clean packages; a look at the card finds {plain:.0%} of what models do"
    )
    if alarms > 0.1 or recall < 0.5:
        return Verdict("not reproduced", because)
    told = table.mean("audit", "recall of behaviour") > plain
    whole = recall >= 0.9 and precision >= 0.9 and five >= 0.8 and plain == 0
    return Verdict("reproduced" if whole and told else "partly", because)


CARD = DirectCard(
    slug="ptm-reuse-audit",
    claim="What model cards do not say can be found out before a model is used: false claims, defects, back doors.",
    equal="36 packages of a seed, 500 test items for each; claims are about four times as many items.",
    rule=(
        "Over the seeds: reproduced when the audit has recall and precision of at least 0.9, sees at least 80 % of the "
        "claims that are 5 points too high, alarms on at most 10 % of the clean packages, and a look at the card finds "
        "nothing of what models do. Partly: alarms on at most 10 % and recall of at least 0.5. Else not reproduced."
    ),
    metrics=(
        Metric("recall", "of the planted defects", better="higher"),
        Metric("precision", "of the alarms", better="higher"),
        Metric("clean with alarms", "share"),
        Metric("recall of behaviour", "of defects beyond the card", better="higher"),
        Metric("found at 2%", "of the false claims", better="higher"),
        Metric("found at 5%", "of the false claims", better="higher"),
        Metric("found at 10%", "of the false claims", better="higher"),
        Metric("seconds", "for each package"),
    ),
    arms=arms,
    attempt=attempt,
    judge=judge,
)
