"""Conda against AdamW, with Muon beside them: one model, the same tokens, the same sweep of learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pomona.evidence.assets import docs, llama, training
from pomona.evidence.card import Arm, Card, Metric, Role, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

RATES = {
    "adamw": [0.002, 0.004, 0.008],
    "conda": [0.005, 0.01, 0.02],
    "muon": [0.005, 0.01, 0.02],
}
"""Three rates each, around what the published runs of each optimizer use at small sizes."""


def arms(scale: Scale) -> Mapping[str, Arm]:
    """One training stage each."""
    roles: Mapping[str, Role] = {"adamw": "baseline", "conda": "method", "muon": "reference"}
    return {
        name: Arm(
            [
                *docs(scale),
                {
                    "pretrain": {
                        "name": "model",
                        "model": llama(scale),
                        "optimizer": {"method": name},
                        "schedule": {"method": "warmup-cosine", "warmup": 0.1, "min_ratio": 0.1},
                        "sweep": {"learning_rate": rates, "pilot": 0.2},
                        "engine": {"evaluate_every": 20},
                        **training(scale, 6.0e5),
                    }
                },
            ],
            roles[name],
        )
        for name, rates in RATES.items()
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Held-out loss at the end, and the time it took."""
    model = made["model"]
    return {
        "loss": model.facts["quality"]["nats_per_token"],
        "bits per byte": model.facts["quality"]["bits_per_byte"],
    }


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    result = table.against("conda", "adamw", "loss")
    noise = table.pooled_spread("conda", "adamw", "loss")
    shares = table.share_to_reach("conda", "adamw")
    because = (
        f"Conda ends {-result.mean:.3f} nats below AdamW (pooled spread {noise:.3f}, p = {result.p:.2g}) and is where "
        f"AdamW ends after {min(shares):.0%} to {max(shares):.0%} of its compute"
    )
    if result.mean <= -max(0.02, 2 * noise) and max(shares) <= 0.8:
        return Verdict("reproduced", because)
    return Verdict("partly" if result.high < 0 else "not reproduced", because)


CARD = Card(
    slug="conda",
    claim="Adam in the singular basis of its momentum reaches AdamW's loss in about half of the steps.",
    equal="model, tokens and their order, batch, schedule, three learning rates tried by pilots of a fifth of the run.",
    rule=(
        "Reproduced: Conda's mean loss is at least 0.02 nats and two pooled standard deviations below AdamW's, and at "
        "every seed it is where AdamW ends after at most 80 % of its compute. Partly: the 95 % interval of the "
        "difference lies below 0. Else not reproduced."
    ),
    metrics=(Metric("loss", "held-out nats per token"), Metric("bits per byte", "held-out text")),
    arms=arms,
    measure=measure,
    judge=judge,
)
