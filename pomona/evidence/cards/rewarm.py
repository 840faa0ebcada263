"""What a raised rate does when training goes on with other text: the study, as a grid of peaks and warm-ups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import DATA_SEED, VOCABULARY, llama, training
from pomona.evidence.card import Arm, Card, Metric, Role, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

RATE = 0.004
UPSTREAM, DOWNSTREAM = 1.8e5, 9.0e4
"""Tokens of the documentation that are learnt first, and of the code that comes after, at scale tiny."""

WARMUP: Mapping[Scale, float] = {"tiny": 0.1, "small": 0.01, "gpu": 0.01}
"""Of the usual re-warming: 1 % as in the paper where that is a step at least, which it is not in a run of 44 steps."""


def cells(scale: Scale) -> Mapping[str, tuple[Role, dict[str, Any]]]:
    """Peaks as multiples of the first run's, and warm-ups: none, the usual one, and one three times as long."""
    usual = WARMUP[scale]
    return {
        "kept": ("baseline", {"peak": 0}),
        "x0.5": ("reference", {"peak": 0.5, "warmup": usual}),
        "x1": ("method", {"peak": 1.0, "warmup": usual}),
        "x2": ("reference", {"peak": 2.0, "warmup": usual}),
        "x1 at once": ("reference", {"peak": 1.0, "warmup": 0}),
        "x1 slowly": ("reference", {"peak": 1.0, "warmup": 3 * usual}),
    }


def text(scale: Scale) -> list[Any]:
    """Documentation, and code in the same tokens."""
    corpus = {"validation": 0.05, "seed": DATA_SEED}
    return [
        {"corpus": {"name": "docs-text", "sources": ["env:docs"], **corpus}},
        {"tokenize": {"name": "docs", "from": "docs-text", "vocab_size": VOCABULARY[scale]}},
        {"corpus": {"name": "code-text", "sources": ["env:code"], **corpus}},
        {"tokenize": {"name": "code", "from": "code-text", "like": "docs"}},
    ]


def trained(scale: Scale, tokens: float, schedule: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What all runs share."""
    optimizer = {"method": "adamw", "learning_rate": RATE}
    schedule = {"method": "rewarm", **schedule}
    scored = {"validation_tokens": 8_192 if scale == "tiny" else 131_072}
    return training(scale, tokens, optimizer=optimizer, schedule=schedule, **scored, **more)


def arms(scale: Scale) -> Mapping[str, Arm]:
    """Each cell of the grid goes on from the same state; `again` re-warms on the old text, `scratch` knows only the
    new."""
    first = {"pretrain": {"name": "first", "model": llama(scale), "data": "docs", **trained(scale, UPSTREAM, {})}}
    along = {"watch": "docs", "engine": {"evaluate_every": 6 if scale == "tiny" else 80}}

    def going_on(data: str, schedule: Mapping[str, Any]) -> list[Any]:
        stage = {"name": "model", "from": "first", "data": data, **trained(scale, DOWNSTREAM, schedule, **along)}
        return [*text(scale), first, {"continue": stage}]

    grid = cells(scale)
    made = {name: Arm(going_on("code", schedule), role) for name, (role, schedule) in grid.items()}
    made["again"] = Arm(going_on("docs", grid["x1"][1]), "reference")
    for name, tokens in (("scratch", DOWNSTREAM), ("scratch, longer", UPSTREAM + DOWNSTREAM)):
        shared = trained(scale, tokens, {}, **along)
        stage = {"name": "model", "model": llama(scale), "data": "code", **shared}
        made[name] = Arm([*text(scale), {"pretrain": stage}], "reference")
    return made


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Losses on the new and the old text at the end, and the rise of the old one on the way."""
    from pomona.engine import read_metrics
    from pomona.schedules.rewarm import spike_of

    records = [record for record in read_metrics(made["model"].folder / "metrics.jsonl") if "validation" in record]
    last = records[-1]
    found = {
        "new": last["validation"]["nats_per_token"],
        "old": last["watched"]["docs"]["nats_per_token"],
        "new, early": records[0]["validation"]["nats_per_token"],
    }
    if "first" in made:
        before = made["first"].facts["quality"]["nats_per_token"]
        curve = [(record["tokens"], record["watched"]["docs"]["nats_per_token"]) for record in records]
        found |= {"old, risen by": found["old"] - before, "spike": spike_of([(0.0, before), *curve]).height}
    return found


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    learnt, lost = table.against("x1", "kept", "new"), table.against("x1", "kept", "old")
    scratch = table.against("x1", "scratch", "new")
    ends = [table.mean(name, "new") for name in ("x1", "x1 at once", "x1 slowly")]
    apart = max(ends) - min(ends)
    more = table.against("x2", "x1", "new").mean, table.against("x2", "x1", "old").mean
    rise = table.mean("again", "spike")
    because = (
        f"re-warming to the first peak: {learnt.mean:+.3f} nats on the new text and {lost.mean:+.3f} on the old "
        f"(p = {learnt.p:.2g} and {lost.p:.2g}), {scratch.mean:+.3f} from a new model; twice the peak: {more[0]:+.3f} "
        f"and {more[1]:+.3f}; warm-ups end within {apart:.3f}; on the old text itself, the loss first rises {rise:.3f}"
    )
    trades, beats = learnt.high < 0 < lost.low, scratch.high < 0
    if trades and beats and apart < 0.02 and rise > 0:
        return Verdict("reproduced", because)
    return Verdict("partly" if trades or beats else "not reproduced", because)


CARD = Card(
    slug="rewarm",
    claim=(
        "Raising the rate again learns more of new text and forgets more of the old; how long the warm-up is does not "
        "matter, and going on beats a new model."
    ),
    equal="first model and its moments, new tokens and their order, optimizer, batch; one rate, without a sweep.",
    rule=(
        "Reproduced: 95 % intervals say that re-warming to the first peak ends lower on the new text and higher on the "
        "old than the kept rate, and lower than a model trained on the new text alone; means over three warm-ups "
        "differ by less than 0.02 nats; and re-warming on the old text raises its loss at first. Partly: the trade, or "
        "the advantage over a new model. Else not reproduced."
    ),
    metrics=(
        Metric("new", "held-out nats per token on the new text"),
        Metric("old", "held-out nats per token on the old text"),
        Metric("spike", "most nats above the first model's loss on the old text"),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)
