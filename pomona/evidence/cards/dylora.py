"""One run for all ranks against a run for each rank, and against a LoRA that is cut afterwards.

Findings at scale tiny: what a rank is worth is hardly to be seen. Runs of their own at rank 1 and rank 8 end 2.5 points
apart, a LoRA of rank 8 that is cut to rank 1 loses 6; one run for all ranks loses 3 from rank 8 to rank 1, ends 1.3
points above the cut one there, and 1.7 below it at rank 8, so that nothing is left on the mean. Training all that is
below the drawn rank gains 4 points over the variant that trains the drawn row alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pomona.evidence.assets import task
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

RANKS = (1, 2, 4, 8)
RATES = (1e-3, 4e-3)
TARGETS = ["query", "value", "up", "down"]
"""The feed-forward too, so that rank matters."""


def arms(scale: Scale) -> Mapping[str, Arm]:
    """DyLoRA by both rules, a LoRA of each rank, and the largest LoRA cut to the smaller ranks with alpha / b.

    The last is DyLoRA's code with one rank in its range, which is LoRA.
    """
    shared = {"method": "dylora", "rank_max": 8, "targets": TARGETS}
    found = {
        "dylora": Arm(task(scale, "adapted", RATES, **shared)),
        "dylora, frozen": Arm(task(scale, "adapted", RATES, **shared, update="frozen")),
        "lora-8, cut": Arm(task(scale, "adapted", RATES, **shared, rank_min=8), "baseline"),
    }
    for rank in RANKS[:-1]:
        own = {**shared, "rank_min": rank, "rank_max": rank}
        found[f"lora-{rank}"] = Arm(task(scale, "adapted", RATES, **own), "baseline")
    return found


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Accuracy at each rank that the arm has."""
    variants = made["adapted"].facts["variants"]
    found = {f"at rank {rank}": variants[str(rank)]["accuracy"] for rank in RANKS if str(rank) in variants}
    return {**found, "mean": sum(found.values()) / len(found)}


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    gain = table.against("dylora", "lora-8, cut", "mean").mean
    own = {rank: "lora-8, cut" if rank == max(RANKS) else f"lora-{rank}" for rank in RANKS}
    gaps = {rank: table.against("dylora", arm, f"at rank {rank}").mean for rank, arm in own.items()}
    worst = min(gaps, key=lambda rank: gaps[rank])
    because = (
        f"over ranks {RANKS} one run is {100 * gain:+.1f} points from a LoRA that is cut, and at worst "
        f"{100 * gaps[worst]:+.1f} from a LoRA of the same rank (rank {worst})"
    )
    if gain >= 0.02 and gaps[worst] >= -0.02:
        return Verdict("reproduced", because)
    return Verdict("not reproduced" if gain <= 0 or gaps[worst] < -0.04 else "partly", because)


CARD = Card(
    slug="dylora",
    claim="One run gives a LoRA for every rank, as good as one trained for it and better than a LoRA cut to it.",
    equal="model, data and their order, steps of each run, targets, scale alpha / b, sweeps. A search costs four runs.",
    rule=(
        "Reproduced: the mean over ranks 1, 2, 4, 8 is at least 2 points above that of the LoRA of rank 8 cut to them, "
        "and no rank is more than 2 points below a LoRA of its own. Else not reproduced where cutting is as good or a "
        "rank is more than 4 points below; partly in between."
    ),
    metrics=(
        Metric("mean", "accuracy over the ranks of the arm", "higher"),
        *(Metric(f"at rank {rank}", "share of test docstrings", "higher") for rank in RANKS),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)
