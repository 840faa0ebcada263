"""Stacking a shallow model against training the deep one from the start, at equal FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import docs, llama, training
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

BUDGET: Mapping[Scale, float] = {"tiny": 6.0e12, "small": 4.0e14, "gpu": 4.0e17}
"""FLOPs of an arm."""
SHARE = 0.12
"""Of the budget, before growth."""
BLOCKS, FACTOR = 8, 4
RATES = [0.002, 0.004]


def trained(scale: Scale, flops: float, **stage: Any) -> dict[str, Any]:
    """A training stage with a budget in FLOPs."""
    schedule = {"method": "warmup-cosine", "warmup": 0.05, "min_ratio": 0.1}
    rest = {key: value for key, value in training(scale, 0).items() if key != "tokens"}
    return {"schedule": schedule, "flops": flops, "engine": {"evaluate_every": 10}, **rest, **stage}


def arms(scale: Scale) -> Mapping[str, Arm]:
    """From scratch, and stacked in two orders of the copies' start."""
    budget = BUDGET[scale]
    sweep = {"learning_rate": RATES, "pilot": 0.2}
    shallow = llama(scale, num_hidden_layers=BLOCKS // FACTOR)
    first = trained(
        scale,
        SHARE * budget,
        name="shallow",
        model=shallow,
        optimizer={"method": "adamw", "learning_rate": max(RATES)},
        schedule={"method": "warmup-stable-decay", "warmup": 0.05, "decay": 0.0},
    )
    rest = trained(scale, (1 - SHARE) * budget, name="model", optimizer="adamw", sweep=sweep)
    whole = trained(
        scale,
        budget,
        name="model",
        model=llama(scale, num_hidden_layers=BLOCKS),
        optimizer="adamw",
        sweep=sweep,
    )

    def grown(**growth: Any) -> list[Any]:
        return [*docs(scale), {"pretrain": first}, {"grow": {"method": "g-stack", **growth}}, {"continue": rest}]

    return {
        "from scratch": Arm([*docs(scale), {"pretrain": whole}], "baseline"),
        "stacked": Arm(grown(factor=FACTOR)),
        "identity blocks": Arm(grown(factor=FACTOR, new_blocks="identity"), "reference"),
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Held-out loss at the end."""
    quality = made["model"].facts["quality"]
    return {"loss": quality["nats_per_token"], "bits per byte": quality["bits_per_byte"]}


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    result = table.against("stacked", "from scratch", "loss")
    noise = table.pooled_spread("stacked", "from scratch", "loss")
    saved = [1 - share for share in table.share_to_reach("stacked", "from scratch")]
    because = (
        f"the stacked model ends {-result.mean:.3f} nats below the one from scratch (pooled spread {noise:.3f}, "
        f"p = {result.p:.2g}) and is where that one ends with {min(saved):.0%} to {max(saved):.0%} of the compute left"
    )
    if unequal := table.unequal():
        return Verdict("not reproduced", f"the arms did not cost the same: {unequal}; {because}")
    if result.mean < -noise and min(saved) > 0.1:
        return Verdict("reproduced", because)
    return Verdict("partly" if result.mean < 0 and max(saved) > 0 else "not reproduced", because)


CARD = Card(
    slug="g-stack",
    claim="Stacked from a briefly trained shallow one, a deep model needs less compute than from scratch.",
    equal="FLOPs with the shallow model's included, final architecture, optimizer, batch, two learning rates tried.",
    rule=(
        "Reproduced: the stacked model ends lower by more than the pooled standard deviation, and at every seed it is "
        "where the model from scratch ends with more than 10 % of its compute left. Partly: lower in the mean. Else, "
        "or where costs differ by more than 5 %, not reproduced."
    ),
    metrics=(Metric("loss", "held-out nats per token"), Metric("bits per byte", "held-out text")),
    arms=arms,
    measure=measure,
    judge=judge,
)
