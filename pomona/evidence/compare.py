"""`pomona compare`: which recipe pays off on this text, at one budget, over several seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pomona.evidence.budget import Budget, parse_budget, stretched
from pomona.evidence.card import Metric
from pomona.evidence.plots import arms_plot
from pomona.evidence.sentence import sentence
from pomona.evidence.table import Paired, Table
from pomona.evidence.trials import run_trials
from pomona.ground.console import say
from pomona.ground.errors import ConfigError
from pomona.ground.files import read_json, write_json, write_text
from pomona.stages import Artefact, Recipe, load
from pomona.stages.base import Stage
from pomona.stages.corpus import CorpusStage
from pomona.stages.graph import Node
from pomona.stages.plan import Plan
from pomona.stages.runner import measure, prepare
from pomona.stages.store import Store
from pomona.stages.training import TrainingStage

QUALITY = Metric("bits per byte", "held-out text")
TOKENS = 65_536
"""Held-out tokens on which all models are compared."""
CLOSE = 0.02
"""A plan this near to the budget is taken."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        table: every recipe at every seed; the metric is `QUALITY`.
        conclusion: one sentence.
        folder: where table, picture and runs lie.
    """

    table: Table
    conclusion: str
    folder: Path


def compare(
    recipes: Sequence[str | Path],
    *,
    budget: str | Budget,
    seeds: int = 3,
    data: str | Path | None = None,
    out: str | Path = "runs/compare",
) -> Comparison:
    """Run recipes with several seeds at one budget and compare the models that they end in.

    A recipe ends in the last model that comes of the first one it trains; its baselines, exports and reports are left
    out. All training of a recipe is made longer or shorter by one factor, until its plan costs the budget.

    Args:
        recipes: at least two: files, or names of shipped ones.
        budget: of one run: `10m`, `2h`, `1e15flops`.
        seeds: 0, 1, ... so many, the same for all recipes.
        data: a folder, file or other source that replaces the sources of all recipes. How it is read and divided is
            then what the first recipe says.
        out: folder of the comparison. What is in it already is reused.

    Raises:
        ConfigError: a recipe is not valid, they would be judged on different text, or the budget does not fit.
    """
    if seeds < 1:
        raise ConfigError("a comparison needs at least one seed", found=str(seeds))
    loaded = [load(recipe) for recipe in recipes]
    names = names_of(loaded)
    if len(loaded) < 2:
        raise ConfigError("a comparison needs two recipes", found=str(len(loaded)))
    budget = parse_budget(budget) if isinstance(budget, str) else budget
    folder = Path(out)
    corpus = common_corpus(dict(zip(names, loaded, strict=True)), data)
    ends, arms = {}, {}
    for name, recipe in zip(names, loaded, strict=True):
        end, values = line_of(with_corpus(recipe, corpus), folder)
        ends[name] = end
        arms[name] = fitted(name, values, budget, folder)
    length = min(stage.seq_length for name in names for stage in trained(arms[name]))  # the same for all
    for name in names:
        arms[name].append(
            {"examine": {"models": [ends[name]], "tokens": TOKENS, "seq_length": length, "decode_tokens": 16}}
        )
    trials = run_trials("compare", arms, dict.fromkeys(names, quality), range(seeds), folder)
    table = Table(trials)
    conclusion = sentence(table, QUALITY)
    write_json(
        folder / "comparison.json",
        {
            "budget": str(budget),
            "conclusion": conclusion,
            "arms": arms,
            "trials": [asdict(trial) for trial in trials],
            "pairs": {f"{a} - {b}": described(table.against(a, b, QUALITY.name)) for a, b in combinations(names, 2)},
        },
    )
    write_text(folder / "comparison.svg", arms_plot(table, QUALITY, {}))
    return Comparison(table, conclusion, folder)


def described(pair: Paired) -> dict[str, Any]:
    """Plain values; what one seed cannot tell is null."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(pair).items()
    }


def names_of(recipes: Sequence[Recipe]) -> list[str]:
    """The recipes' names, told apart by number where two are the same."""
    names = [recipe.name for recipe in recipes]
    return [f"{name}-{index + 1}" if names.count(name) > 1 else name for index, name in enumerate(names)]


def quality(made: Mapping[str, Artefact]) -> dict[str, float]:
    """What the examination found about the one model of an arm."""
    examination = next(artefact for artefact in made.values() if artefact.kind == "examination")
    (row,) = read_json(examination.folder / "examination.json")["models"]
    found = row["quality"]["bits_per_byte"]
    if found is None:
        raise ConfigError(
            "the models cannot be compared in bits per byte", needs="an objective that predicts every token"
        )
    return {QUALITY.name: float(found), "bytes": float(row["bytes"])}


def common_corpus(recipes: Mapping[str, Recipe], data: str | Path | None) -> CorpusStage:
    """The one corpus on which all recipes are judged.

    Raises:
        ConfigError: a recipe reads none, or two read different ones.
    """
    found: dict[str, CorpusStage] = {}
    for name, recipe in recipes.items():
        own = [stage for stage in recipe.stages if isinstance(stage, CorpusStage)]
        if len(own) != 1:
            raise ConfigError(f"{name} cannot be compared", needs="one corpus stage", found=f"{len(own)}")
        found[name] = own[0]
    (first_name, first), *others = found.items()
    if data is not None:
        return first.model_validate({**first.model_dump(), "sources": [str(data)]})
    for name, other in others:
        if other.identity() != first.identity():
            raise ConfigError(
                f"{name} and {first_name} would be judged on different text",
                do="give both the same corpus stage, or --data",
            )
    return first


def with_corpus(recipe: Recipe, corpus: CorpusStage) -> Recipe:
    """The recipe with another corpus stage; its label stays."""
    pairs = zip(recipe.stages, recipe.labels, strict=True)
    stages = [entry_for(corpus if isinstance(stage, CorpusStage) else stage, label) for stage, label in pairs]
    return load({"name": recipe.name, "stages": stages})


def entry_for(stage: Stage, label: str) -> dict[str, Any]:
    """A stage as recipes list it, with its label, so that dropping others does not rename it."""
    return {stage.verb: {**stage.model_dump(mode="json", by_alias=True), "name": label}}


def line_of(recipe: Recipe, folder: Path) -> tuple[str, list[Any]]:
    """The label of the model that a recipe ends in, and the stages that it takes, each as `{verb: values}`."""
    nodes, _ = prepare(recipe, Store(folder / recipe.name), probe=False)
    models = [node for node in nodes if node.stage.makes == "model"]
    starts = [node for node in models if root_of(node) is node and not node.inputs.get("flops_of")]
    if not starts:
        raise ConfigError(f"{recipe.name} makes no model")
    end = [node for node in models if root_of(node) is starts[0]][-1]
    needed = ancestors(end)
    return end.label, [entry_for(node.stage, node.label) for node in nodes if node.label in needed]


def root_of(node: Node) -> Node:
    """The first model of the line that a model belongs to."""
    for field in ("from", "model"):
        for source in node.inputs.get(field, ()):
            if isinstance(source, Node) and source.stage.makes == "model":
                return root_of(source)
    return node


def ancestors(node: Node) -> set[str]:
    """Labels of everything that a stage needs, itself included."""
    sources = [source for each in node.inputs.values() for source in each if isinstance(source, Node)]
    return {node.label}.union(*(ancestors(source) for source in sources))


def fitted(name: str, values: list[Any], budget: Budget, folder: Path) -> list[Any]:
    """Stages stretched until their plan costs the budget."""
    for _ in range(6):
        plan = planned(name, values, budget, folder)
        if abs(cost_of(plan, budget) / budget.amount - 1) < CLOSE:
            break
        values = stretched(values, plan.entries, budget)
    cost = cost_of(planned(name, values, budget, folder), budget)
    say(f"[dim]{name}: planned at {Budget(cost, budget.unit)}[/]")
    return values


def planned(name: str, values: Sequence[Any], budget: Budget, folder: Path) -> Plan:
    """The plan of a line, with times where the budget is one."""
    recipe = load({"name": name, "stages": list(values)})
    _, plan = prepare(recipe, Store(folder / "plan"), probe=False)
    if budget.unit == "seconds":
        measure(plan)
    return plan


def cost_of(plan: Plan, budget: Budget) -> float:
    """What the models of a plan cost, in the budget's unit."""
    models = [entry for entry in plan.entries if entry.node.stage.makes == "model"]
    return sum((entry.forecast.flops if budget.unit == "flops" else entry.seconds) or 0.0 for entry in models)


def trained(values: Sequence[Any]) -> list[Any]:
    """The training stages among these."""
    stages: Sequence[Stage] = load({"name": "line", "stages": list(values)}).stages
    return [stage for stage in stages if isinstance(stage, TrainingStage)]
