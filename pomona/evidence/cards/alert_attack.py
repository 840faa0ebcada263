"""Natural renaming against random renaming and Metropolis-Hastings renaming, at equal queries, on a code classifier.

The victim tells which of eight installed packages a function is from; it and the masked model that proposes names are
one small encoder, pre-trained on the functions, the victim tuned afterwards. Adversarial fine-tuning as a defence is
left out.

Findings at scale tiny: the victim is right on 69 % of the functions, and turns at most renamings, so that free choice
among the names of other functions, many of which belong to another package, beats thirty natural ones: 85 % and 83 %
against 78 %. Natural renaming changes half of the names where the others change 78 % and all; the genetic search turns
nothing that greedy did not. A first victim (26 %) turned at any renaming and told nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pomona.evidence.card import Arm, Metric, Role, Scale, Verdict
from pomona.evidence.direct import DirectCard

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

PACKAGES, FUNCTIONS = 8, 300
LONGEST = 800
"""Characters of a function; shorter ones than 150 are left out."""
TEXTS: Mapping[Scale, int] = {"tiny": 24, "small": 200, "gpu": 1000}
QUERIES = 300
OWN, CHANCE, MHM = "greedy+genetic", "random", "mhm"
ROLES: Mapping[str, Role] = {CHANCE: "baseline", MHM: "baseline", "greedy": "reference", OWN: "method"}


def arms(scale: Scale) -> Mapping[str, Arm]:
    """The strategies, each with as many queries."""
    return {name: Arm([], role) for name, role in ROLES.items()}


def attempt(scale: Scale, arm: str, seed: int, folder: Path) -> dict[str, float]:
    """Attack other functions, with other chances, at each seed; the models are the same."""
    from pomona.examination.alert_attack import AlertAttackConfig
    from pomona.examination.attacking import Victim
    from pomona.examination.victims import classify_with, fluency_of
    from pomona.tasks import Examples

    made = models(scale, folder.parent / f"alert-attack.{scale}-models")
    examples = Examples.open(made["examples"].folder)
    told = examples.side("test")
    count = TEXTS[scale]
    pairs = [(one.text, examples.number(one.label)) for one in told[seed * count : (seed + 1) * count]]
    config = AlertAttackConfig(strategy=arm, queries=QUERIES)
    victim = Victim(classify_with(made["victim"].folder), config.budget)
    report = config.attack(victim, fluency_of(made["encoder"].folder), pairs, seed=seed)
    return {**report.numbers, "accuracy": made["victim"].facts["accuracy"]}


def models(scale: Scale, folder: Path) -> dict[str, Artefact]:
    """The victim and the masked model, made once."""
    from pomona.evidence.assets import encoder
    from pomona.stages import load
    from pomona.stages.runner import execute, prepare
    from pomona.stages.store import Store

    file = folder / "functions.jsonl"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{json.dumps(entry)}\n" for entry in functions()), encoding="utf-8")
    steps = {"tiny": 800, "small": 6000, "gpu": 60_000}[scale]
    tuned = {"method": "adamw", "head_learning_rate": 5e-3, "beta2": 0.999}
    stages: list[Any] = [
        {"corpus": {"sources": [str(file)], "validation": 0.05, "near_duplicates": None}},
        {"tokenize": {"vocab_size": 2048, "mask_token": "[MASK]"}},
        {"examples": {"sources": [{"path": str(file)}], "test": 0.3}},
        {
            "pretrain": {
                "name": "encoder",
                "model": encoder(scale),
                "objective": "masked-lm",
                "optimizer": {"method": "adamw", "learning_rate": 0.003},
                "schedule": {"method": "warmup-cosine", "warmup": 0.1, "min_ratio": 0.05},
                "batch_size": 16,
                "seq_length": 128,
                "steps": steps,
            }
        },
        {
            "adapt": {
                "name": "victim",
                "from": "encoder",
                "optimizer": tuned,
                "sweep": {"learning_rate": [0.0005, 0.001, 0.002], "pilot": 0.3},
                "batch_size": 32,
                "seq_length": 128,
                "epochs": 8,
            }
        },
    ]
    recipe = load({"name": "models", "stages": stages})
    store = Store(folder / recipe.name)
    nodes = prepare(recipe, store, probe=False)[0]
    with store.locked():
        return {artefact.name: artefact for artefact in execute(nodes, store, recipe)}


def functions() -> Iterator[dict[str, str]]:
    """Functions of the packages that have the most, as many of each, in the order of their text."""
    from pomona.data import read_source, split_pair
    from pomona.data.config import SourceConfig
    from pomona.examination.renaming import names_of
    from pomona.ground.errors import DataError

    found: defaultdict[str, set[str]] = defaultdict(set)
    for document in read_source(SourceConfig(path="env:pairs")):
        code = split_pair(document)[1].strip() + "\n"
        if 150 <= len(code) <= LONGEST:
            try:
                if names_of(code).places:
                    found[document.metadata["package"]].add(code)
            except DataError:
                continue
    largest = sorted(found, key=lambda package: (-len(found[package]), package))[:PACKAGES]
    for package in sorted(largest):
        for code in sorted(found[package])[:: max(1, len(found[package]) // FUNCTIONS)][:FUNCTIONS]:
            yield {"text": code, "label": package}


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    success = {arm: table.mean(arm, "success") for arm in ROLES}
    natural = table.mean(OWN, "strangeness") < table.mean(MHM, "strangeness")
    because = (
        f"natural renaming turns {success[OWN]:.0%} of the answers, Metropolis-Hastings {success[MHM]:.0%}, random "
        f"{success[CHANCE]:.0%}, greedy alone {success['greedy']:.0%}, with {QUERIES} queries each; its texts are "
        f"{table.mean(OWN, 'strangeness'):.2f} times as strange to the masked model as the originals, those of "
        f"Metropolis-Hastings {table.mean(MHM, 'strangeness'):.2f} times"
    )
    if success[OWN] <= success[CHANCE]:
        return Verdict("not reproduced", because)
    return Verdict("reproduced" if success[OWN] >= success[MHM] and natural else "partly", because)


CARD = DirectCard(
    slug="alert-attack",
    claim="Renaming to natural names, greedily and then by a genetic search, turns more answers, more naturally.",
    equal="victim, functions, queries for each; renaming by scope in all arms.",
    rule=(
        "Reproduced: natural renaming turns more answers than random renaming and at least as many as Metropolis-"
        "Hastings renaming, and its texts are less strange to the masked model than those of the latter. Partly: more "
        "than random renaming. Else not reproduced."
    ),
    metrics=(
        Metric("success", "of the functions that were classified rightly", better="higher"),
        Metric("strangeness", "pseudo-perplexity relative to the original"),
        Metric("queries", "for each function"),
        Metric("renamed", "share of the names"),
        Metric("accuracy", "of the victim", better="higher"),
    ),
    arms=arms,
    attempt=attempt,
    judge=judge,
)
