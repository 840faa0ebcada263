"""A mixture of denoisers against two specialists, at equal FLOPs: is it good at everything, and to fine-tune?

Findings at scale tiny: the mixture is the best on the mean and by far at its worst, but each specialist is better at
its own (up to 0.95 nats). Fine-tuned to write what comes after the beginnings of functions it is 0.43 nats behind next
tokens: it has read a part of its text that way, and 330 steps are too few for the rest to come back.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import DATA_SEED, VOCABULARY, llama
from pomona.evidence.card import Arm, Card, Metric, Role, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

RATES = [0.005, 0.01]
LENGTH = 96
FLOPS: Mapping[Scale, float] = {"tiny": 3e12, "small": 2e14, "gpu": 2e18}
MODES: Mapping[str, dict[str, Any]] = {
    "gaps": {"mode": "R", "density": 0.15, "mean_span": 3.0},
    "ends": {"mode": "S", "density": 0.25},
    "long gaps": {"mode": "X", "density": 0.5, "mean_span": 64.0},
}
"""What models are asked to write on held-out text."""
SHORT_SPANS = {"method": "ul2", "denoisers": [MODES["gaps"]], "modes": False}
ENDS = {"method": "ul2", "denoisers": [MODES["ends"]]}
OBJECTIVES: Mapping[str, tuple[Role, Any]] = {
    "next token": ("baseline", "next-token"),
    "short spans": ("baseline", SHORT_SPANS),
    "ul2": ("method", "ul2"),
}


def arms(scale: Scale) -> Mapping[str, Arm]:
    """The same decoder trained three ways, each then fine-tuned to write the ends of functions after docstrings."""
    pairs = [{"path": "env:pairs", "include": ["torch/*", "sympy/*", "numpy/*"]}]
    special = {"sentinels": 64, "special_tokens": ["[R]", "[S]", "[X]"]}
    before = [
        {"corpus": {"sources": ["env:docs"], "validation": 0.02, "seed": DATA_SEED}},
        {"tokenize": {"name": "docs", "vocab_size": VOCABULARY[scale], **special}},
        {"corpus": {"name": "functions", "sources": pairs, "validation": 0.05, "seed": DATA_SEED}},
        {"tokenize": {"name": "pairs", "from": "functions", "like": "docs"}},
    ]
    shared = {
        "optimizer": {"method": "muon"},
        "schedule": {"method": "warmup-stable-decay", "warmup": 0.05, "decay": 0.3},
        "batch_size": 16 if scale == "tiny" else 64,
        "seq_length": LENGTH,
        "validation_tokens": 16_384,
    }
    sweep = {"learning_rate": RATES, "pilot": 0.1}
    pretrain = {"name": "model", "data": "docs", "model": llama(scale), "flops": FLOPS[scale], "sweep": sweep, **shared}
    tune = {
        "name": "tuned",
        "from": "model",
        "data": "pairs",
        "objective": ENDS,
        "flops": 0.15 * FLOPS[scale],
        **shared,
    }
    tune["optimizer"] = {"method": "muon", "learning_rate": 0.003, "rest_learning_rate": 0.003}
    return {
        name: Arm([*before, {"pretrain": {**pretrain, "objective": objective}}, {"continue": tune}], role)
        for name, (role, objective) in OBJECTIVES.items()
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Nats for each token that a model has to write, on what it knows how to do and on what it does not."""
    from pomona import anatomy
    from pomona.data import Tokens, validation_batches
    from pomona.engine import evaluate
    from pomona.objectives import Ul2Config

    tokens = Tokens.open(made["docs"].folder)
    body = anatomy.of(anatomy.load(made["model"].folder))
    batches = validation_batches(tokens.validation, batch_size=16, seq_length=LENGTH, limit_tokens=32_768)
    trained = made["model"].facts["objective"]
    knows_modes = trained.get("modes", False)
    attention = "causal" if trained["method"] == "next-token" else "prefix"

    def nats(denoiser: dict[str, Any], **changes: Any) -> float:
        config = Ul2Config(denoisers=(denoiser,), modes=knows_modes, attention=attention, **changes)
        return evaluate(body, config.build(tokens.tokenizer), batches).nats_per_token

    found = {name: nats(denoiser) for name, denoiser in MODES.items()}
    if trained["method"] == "next-token":  # it knows no sentinel, and needs none to write on
        found["ends"] = last_part(body, batches)
    losses = list(found.values())
    found |= {"mean": statistics.fmean(losses), "worst": max(losses)}
    found["tuned"] = made["tuned"].facts["quality"]["nats_per_token"]
    if knows_modes:
        found["wrong mode"] = nats({**MODES["ends"], "mode": "R"}) - found["ends"]
    return found


def last_part(body: Any, batches: Any) -> float:
    """Nats per token of the last quarter of each text under plain prediction from what comes before."""
    import torch

    from pomona.engine.head_loss import head_loss

    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            tokens = batch["tokens"][:, :-1]
            first = tokens.shape[1] - round(0.25 * tokens.shape[1])
            hidden = body.hidden(input_ids=tokens[:, :-1])[:, first - 1 :]
            total += float(head_loss(body, hidden, tokens[:, first:])[0])
            count += tokens[:, first:].numel()
    return total / count


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    others = [arm for arm in table.arms if arm != "ul2"]
    best = {metric: min(table.mean(arm, metric) for arm in others) for metric in (*MODES, "mean", "worst", "tuned")}
    ahead = all(table.mean("ul2", metric) < best[metric] for metric in ("mean", "worst"))
    behind = max(table.mean("ul2", name) - best[name] for name in MODES)
    tuned = table.mean("ul2", "tuned") - best["tuned"]
    because = (
        f"the mixture's mean is {table.mean('ul2', 'mean') - best['mean']:+.2f} nats and its worst "
        f"{table.mean('ul2', 'worst') - best['worst']:+.2f} from the best specialist's, at most {behind:+.2f} on any "
        f"one; fine-tuned it is {tuned:+.3f} nats from the better of them"
    )
    if ahead and behind <= 0.1 and tuned <= 0.02:
        return Verdict("reproduced", because)
    return Verdict("partly" if ahead else "not reproduced", because)


CARD = Card(
    slug="ul2",
    claim="One model trained on a mixture of denoisers writes gaps and ends as well as a specialist for each.",
    equal="decoder, text, FLOPs, two learning rates tried; fine-tuning on other text with the same budget.",
    rule=(
        "Reproduced: over three tasks the mixture has the best mean and the best worst loss, is within 0.1 nats of the "
        "best specialist on each, and within 0.02 nats of the better one after fine-tuning. Partly: the best mean and "
        "worst loss. Else not reproduced."
    ),
    metrics=(
        Metric("mean", "nats per written token, over three tasks"),
        Metric("worst", "nats per written token, of three tasks"),
        Metric("tuned", "nats per written token after fine-tuning"),
        *(Metric(name, "nats per written token") for name in MODES),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)
