"""A model grown in width from one of half the size against one from scratch, at equal FLOPs of the large model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import docs, llama, training
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict
from pomona.ground.files import read_json

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

RATES = [0.002, 0.004]


def halved(scale: Scale) -> dict[str, Any]:
    """The source: half the hidden size, heads and feed-forward features of the large model."""
    whole = llama(scale)
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return {**whole, **{name: whole[name] // 2 for name in sizes}}


def arms(scale: Scale) -> Mapping[str, Arm]:
    """From scratch, and grown with both initialisations; the source has been trained before, as in the paper."""
    shared = {"engine": {"evaluate_every": 10}, "optimizer": "adamw"}
    sweep = {"sweep": {"learning_rate": RATES, "pilot": 0.2}}
    schedule = {"schedule": {"method": "warmup-cosine", "warmup": 0.05, "min_ratio": 0.1}}
    large = {"name": "model", **training(scale, 4.0e5), **shared, **sweep, **schedule}
    source = {"name": "source", "model": halved(scale), **training(scale, 8.0e5), "optimizer": {"method": "adamw"}}
    source["optimizer"]["learning_rate"] = max(RATES)
    exam = {"tokens": 32_768, "seq_length": large["seq_length"], "decode_tokens": 8}

    def grown(mode: str) -> list[Any]:
        return [
            *docs(scale),
            {"pretrain": source},
            {"grow": {"name": "grown", "from": "source", "method": "bert2bert", "mode": mode}},
            {"examine": {"name": "exam", "models": ["grown"], **exam}},
            {"continue": {"from": "grown", **large}},
        ]

    scratch = [*docs(scale), {"pretrain": source}, {"pretrain": {"model": llama(scale), **large}}]
    return {
        "from scratch": Arm(scratch, "baseline"),
        "grown, aki": Arm(grown("aki")),
        "grown, fpi": Arm(grown("fpi"), "reference"),
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Held-out loss at the end, and how far growing moved it from the source's."""
    found = {"loss": made["model"].facts["quality"]["nats_per_token"]}
    if "exam" not in made:
        return found
    (row,) = read_json(made["exam"].folder / "examination.json")["models"]
    return {**found, "jump": row["quality"]["nats_per_token"] - made["source"].facts["quality"]["nats_per_token"]}


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    shares = table.share_to_reach("grown, aki", "from scratch")
    jump = max(abs(value) for value in table.values("grown, fpi", "jump"))
    because = (
        f"grown with advanced knowledge, the model is where the one from scratch ends after {min(shares):.0%} to "
        f"{max(shares):.0%} of its compute; function preserving growth moved the loss by at most {jump:.3f} nats"
    )
    if max(shares) <= 0.7 and jump <= 0.05:
        return Verdict("reproduced", because)
    return Verdict("partly" if max(shares) <= 0.9 else "not reproduced", because)


CARD = Card(
    slug="bert2bert",
    claim="Grown in width from a trained model of half the size, a model needs about half of the compute.",
    equal="tokens and FLOPs of the large model, architecture, schedule, learning rates tried; the source is reused.",
    rule=(
        "Reproduced: at every seed the model grown with advanced knowledge is where the one from scratch ends after at "
        "most 70 % of its compute, and function preserving growth moves the loss by at most 0.05 nats. Partly: at most "
        "90 %. Else not reproduced."
    ),
    metrics=(Metric("loss", "held-out nats per token"), Metric("jump", "nats per token at growth")),
    arms=arms,
    measure=measure,
    judge=judge,
)
