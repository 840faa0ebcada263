"""Cache policies at a tenth of the cache, on a model that retrieves by construction.

Keys of one page have nothing in common in this model, so that quest's bounds are as loose as they can be: what it loses
here is an upper limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pomona.evidence.card import Arm, Metric, Scale, Verdict
from pomona.evidence.direct import DirectCard

if TYPE_CHECKING:
    from pomona.evidence.table import Table

POLICIES = ("dense", "streaming", "snapkv", "quest", "kivi")
SIZE, CONTEXTS, SHARE = 24_000, 3, 0.1
"""Characters of a context of keys and values, contexts at each seed, and the share of tokens that is kept or read."""


def arms(scale: Scale) -> Mapping[str, Arm]:
    """The policies; contexts and model are made from the seed."""
    return {name: Arm([], "baseline" if name == "dense" else "method") for name in POLICIES}


def attempt(scale: Scale, arm: str, seed: int, folder: Path) -> dict[str, float]:
    """Accuracy by turn and mode, and bytes of the cache."""
    from pomona.examination.scbench import ScbenchConfig, examine, make
    from pomona.examination.scbench.policies import Dense, Kivi, Quest, SnapKV, Streaming
    from pomona.examination.scbench.retriever import Words, retriever

    examples = make("kv", size=SIZE, count=CONTEXTS, seed=seed)
    words = Words(4096 * CONTEXTS)
    length = max(len(words.encode(example.context)) for example in examples)
    budget = round(SHARE * length)
    policy = {
        "dense": Dense(),
        "streaming": Streaming(initial=budget // 32, local=budget - budget // 32),
        "snapkv": SnapKV(capacity=budget),
        "quest": Quest(budget=budget),
        "kivi": Kivi(),
    }[arm]
    config = ScbenchConfig(policies=(policy,), full_length=None)
    model = retriever(words.size, length + 100, seed)
    report = examine(model, words.encode, words.decode, examples, config)
    return {
        "first turn": report.mean(mode="multi_turn", turn=1),
        "later turns": report.mean(mode="multi_turn", turn=range(2, 6)),
        "requests": report.mean(mode="multi_request"),
        "cache": report.bytes(arm) / 1e6,
    }


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    mean = table.mean
    dense = {metric: mean("dense", metric) for metric in ("first turn", "later turns", "requests")}
    first, later = mean("snapkv", "first turn"), mean("snapkv", "later turns")
    requests = mean("snapkv", "requests")
    lost = {
        name: max(dense[metric] - mean(name, metric) for metric in dense) for name in ("streaming", "quest", "kivi")
    }
    because = (
        f"snapkv answers {first:.0%} of first questions and {later:.0%} of later ones ({requests:.0%} of requests); "
        f"quest loses at most {lost['quest']:.0%}, kivi {lost['kivi']:.0%} and streaming {lost['streaming']:.0%}"
    )
    falls = first >= 0.8 and first - later >= 0.4 and first - requests >= 0.4
    stays = lost["quest"] <= 0.05 and lost["kivi"] <= 0.15
    if falls and stays and dense["first turn"] <= 1.0:
        return Verdict("reproduced", because)
    return Verdict("partly" if first - later >= 0.4 else "not reproduced", because)


CARD = DirectCard(
    slug="scbench",
    claim="A cache that was cut down for the first question fails the later ones; one that can reach all does not.",
    equal="model, contexts, questions; a tenth of the tokens kept (snapkv, streaming) or read (quest); kivi: 2 bits.",
    rule=(
        "Reproduced: snapkv answers at least 80 % of first questions, and at least 40 points fewer of later ones and "
        "of requests, while quest stays within 5 points of dense and kivi within 15. Partly: snapkv falls by 40 points "
        "from the first turn to the later ones, but not all of this. Else not reproduced."
    ),
    metrics=(
        Metric("later turns", "share answered, turns 2 to 5", "higher"),
        Metric("first turn", "share answered", "higher"),
        Metric("requests", "share answered when no question is known", "higher"),
        Metric("cache", "MB after the first pass, as the policy keeps it"),
    ),
    arms=arms,
    attempt=attempt,
    judge=judge,
)
