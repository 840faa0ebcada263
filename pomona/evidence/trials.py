"""Run arms against each other: plan them all, then seed by seed, taking turns; what is made already is reused.

Every arm is a recipe, every seed a run of it. Stages are content-addressed, so what arms share is made once, an
interrupted experiment continues where it stopped, and a later one with more seeds only adds what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pomona.engine import Ledger, read_metrics
from pomona.evidence.table import Trial
from pomona.ground.console import say
from pomona.ground.errors import ConfigError
from pomona.stages import Artefact, Recipe, load
from pomona.stages.graph import Node, Salt
from pomona.stages.reporting import chain_of
from pomona.stages.runner import execute, prepare
from pomona.stages.store import Store
from pomona.stages.training import TrainingStage

MEASURED = ("examination", "finding")
"""What looking at a model makes is no cost of it."""


class Outcome(dict[str, Artefact]):
    """Everything that the recipe of an arm made with a seed, by label."""

    def __init__(self, made: Iterable[Artefact], arm: str, seed: int) -> None:
        super().__init__({artefact.name: artefact for artefact in made})
        self.arm, self.seed = arm, seed


Measure = Callable[[Outcome], Mapping[str, float]]


def run_trials(
    name: str,
    arms: Mapping[str, Sequence[Any]],
    measures: Mapping[str, Measure],
    seeds: Sequence[int],
    work: Path,
    *,
    salt: Salt = lambda stage: "",
) -> tuple[Trial, ...]:
    """Run every arm with every seed.

    Args:
        name: of the experiment; the runs lie in `work/<name>-<arm>-<seed>`.
        arms: stages of each arm, as a recipe lists them.
        measures: the metrics of each arm, from what it made, by label.
        seeds: of everything random.
        work: folder of all runs; what other experiments have made there is shared.
        salt: what makes a stage another one besides its configuration and inputs.

    Raises:
        ConfigError: an arm is not a valid recipe, or its sweep is another than the others'; nothing was computed.
    """
    runs: list[tuple[str, int, Recipe, Store, list[Node]]] = []
    for turn, seed in enumerate(seeds):
        for arm in rotated(list(arms), turn):  # nobody is always first
            recipe = load({"name": folder_name(f"{name}-{arm}-{seed}"), "seed": seed, "stages": list(arms[arm])})
            store = Store(work / recipe.name)
            runs.append((arm, seed, recipe, store, prepare(recipe, store, probe=False, salt=salt)[0]))
    check_tuning({arm: recipe for arm, _, recipe, _, _ in runs})
    trials = []
    shared = {seed: common([nodes for _, at, _, _, nodes in runs if at == seed]) for seed in seeds}
    for count, (arm, seed, recipe, store, nodes) in enumerate(runs, start=1):
        say(f"[bold]{name}[/] {count} of {len(runs)}: {arm}, seed {seed}")
        with store.locked():
            made = Outcome(execute(nodes, store, recipe), arm, seed)
        trial = Trial(arm, seed, dict(measures[arm](made)), **costs(made, shared[seed]))
        say("  " + ", ".join(f"{metric} {value:.4g}" for metric, value in trial.metrics.items()))
        trials.append(trial)
    order = list(arms)
    return tuple(sorted(trials, key=lambda trial: (order.index(trial.arm), trial.seed)))


def folder_name(text: str) -> str:
    """What a run of this name lies in: `gptq.tiny-gptq-clipped-0` for `gptq.tiny-gptq, clipped-0`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The names in another order at every turn."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]


def common(runs: Sequence[Sequence[Node]]) -> set[str]:
    """Hashes of the stages that are in all runs."""
    return set.intersection(*({node.hash for node in nodes} for nodes in runs)) if len(runs) > 1 else set()


def check_tuning(arms: Mapping[str, Recipe]) -> None:
    """Raise `ConfigError` unless all arms that train try as many learning rates, with pilots as long."""
    found: dict[str, list[tuple[int, float]]] = {}
    for arm, recipe in arms.items():
        if trained := [stage for stage in recipe.stages if isinstance(stage, TrainingStage)]:
            found[arm] = [(len(stage.sweep.learning_rate), stage.sweep.pilot) for stage in trained if stage.sweep]
    if any(sweeps != next(iter(found.values())) for sweeps in found.values()):

        def shown(sweeps: list[tuple[int, float]]) -> str:
            return ", ".join(f"{rates} rates over {pilot:g} of the run" for rates, pilot in sweeps) or "no sweep"

        raise ConfigError(
            "the arms are not tuned alike",
            needs="as many sweeps, learning rates and steps of pilots in each",
            found="; ".join(f"{arm}: {shown(sweeps)}" for arm, sweeps in found.items()),
        )


def costs(made: Mapping[str, Artefact], shared: set[str]) -> dict[str, Any]:
    """What an arm cost beyond what it shares, what the shared part cost, and its losses along the way."""
    own, common = Ledger(), Ledger()
    for artefact in made.values():
        if artefact.kind not in MEASURED and (ledger := artefact.ledger()):
            (common if artefact.hash in shared else own).merge(Ledger.from_dict(ledger))
    return {
        "flops": own.flops,
        "seconds": own.seconds,
        "shared_flops": common.flops,
        "sweep_flops": own.of("sweep").flops,
        "curve": tuple(curve_of(list(made.values()), shared)),
        "made": {label: artefact.hash for label, artefact in made.items()},
    }


def curve_of(made: Sequence[Artefact], shared: set[str]) -> Iterator[tuple[float, float, float]]:
    """(FLOPs, seconds, held-out nats per token) on the way to the last model, from where the arms part."""
    flops = seconds = 0.0
    models = [artefact for artefact in made if artefact.kind == "model"]
    for artefact in chain_of(models[-1]) if models else ():
        if artefact.hash in shared:
            continue
        for line in read_metrics(artefact.folder / "metrics.jsonl"):
            if "validation" in line:
                yield flops + line["flops"], seconds + line["seconds"], line["validation"]["nats_per_token"]
        cost = Ledger.from_dict(ledger) if (ledger := artefact.ledger()) else Ledger()
        flops, seconds = flops + cost.flops, seconds + cost.seconds
