"""Run a recipe, or one stage: plan first, then make what is not there yet."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pomona.ground.config import problems_of
from pomona.ground.console import say, warn
from pomona.ground.errors import ConfigError, Problem
from pomona.ground.files import write_json
from pomona.ground.ranks import from_main, is_main, wait
from pomona.stages.base import Artefact, Job, Stage
from pomona.stages.cleaning import described, leftovers, note_run
from pomona.stages.graph import Node, Salt, made_by, wire
from pomona.stages.plan import Plan, make_plan, show
from pomona.stages.recipe import Header, Recipe, Source, flat_paths, load
from pomona.stages.store import Store
from pomona.stages.verbs import stage_class


@dataclass(frozen=True)
class Run:
    """What a run made: artefacts by the stage's name, in order, and where they lie."""

    folder: Path
    artefacts: Mapping[str, Artefact]

    def __getitem__(self, name: str) -> Artefact:
        return self.artefacts[name]


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    out: str | Path = "runs",
    plan_only: bool = False,
) -> Run:
    """Run a recipe; stages that are made already are reused, an interrupted one continues where it stopped.

    Args:
        recipe: a YAML file, the name of a shipped recipe, or plain values.
        overrides: `a.b=c` each, as with `--set`.
        out: folder of all runs; this one lies in `out/<name of the recipe>`.
        plan_only: print the plan, make nothing.

    Raises:
        ConfigError: lists every problem of the recipe; nothing was computed.
        FolderBusy: another process works on this run.
    """
    loaded = load(recipe, overrides)
    store = Store(Path(out) / loaded.name)
    nodes, plan = prepare(loaded, store)
    show(plan, loaded.header, store.folder)
    if plan_only:
        return Run(store.folder, {})
    with store.locked():
        if is_main():
            note_run(store.folder, nodes)
        artefacts = execute(nodes, store, loaded)
    from pomona.stages.summary import summarize

    summarize(artefacts)
    mention(store.folder)
    return Run(store.folder, {artefact.name: artefact for artefact in artefacts})


def mention(folder: Path) -> None:
    """Say what earlier versions of the recipe have left unfinished."""
    if left := leftovers(folder):
        say(f"[dim]no longer needed: unfinished work in {described(left)}; pomona clean {folder}[/]")


def call(verb: str, values: Mapping[str, Any], out: str | Path, *, dashes: bool = False, seed: int = 0) -> Artefact:
    """Run one stage into one folder; its inputs are folders.

    Args:
        verb: of the stage.
        values: its fields, as in YAML.
        out: the folder it makes. What the same call made before is reused; an interrupted one is continued.
        dashes: name problems by options (`--batch-size`) instead of keys.
        seed: where the stage has none of its own.

    Raises:
        ConfigError: a value is wrong, or `out` holds something else.
    """
    target, definition = Path(out), stage_class(verb)

    def located(problems: Sequence[Problem]) -> list[Problem]:
        flat = flat_paths(problems, verb, values)
        keys = [problem.where.removeprefix(f"{verb}.").removeprefix(verb) for problem in flat]
        names = [f"--{key.replace('_', '-')}" if dashes and key else key or verb for key in keys]
        return [Problem(name, problem.what, problem.do) for name, problem in zip(names, flat, strict=True)]

    source = Source(None)
    try:
        stage = definition.model_validate(dict(values))
    except ValidationError as error:
        source.refuse(located(problems_of(error, definition, verb)), f"{verb} cannot start")
        raise
    problems: list[Problem] = []
    label = stage.name or target.name
    nodes = wire([stage], [label], seed, lambda index: lambda key, what, do: problems.append(_at(verb, key, what, do)))
    store = Store(target.with_name(f"{target.name}.work"), fixed={nodes[0].hash: target})
    plan = make_plan(nodes, store, lambda node: lambda key, what, do: problems.append(_at(verb, key, what, do)))
    source.refuse(located(problems), f"{verb} cannot start")
    if target.exists() and any(target.iterdir()):
        found = store.find(nodes[0])
        if found.state != "made" and not (made_by(target) and found.wrong):
            raise ConfigError(f"{target} holds something else already", do="choose another --out, or remove the folder")
    measure(plan)
    show(plan, None, target)
    with store.locked():
        (artefact,) = execute(nodes, store, Recipe(Header(name=verb), (stage,), (label,), {verb: dict(values)}, source))
    if is_main():
        shutil.rmtree(store.folder, ignore_errors=True)
    return artefact


def prepare(
    recipe: Recipe, store: Store, *, probe: bool = True, salt: Salt = lambda stage: ""
) -> tuple[list[Node], Plan]:
    """Wire and plan a recipe. Raises one `ConfigError` with all problems; measures the machine only without any.

    Args:
        probe: measure how long the stages will take here.
        salt: what a stage's hash depends on besides configuration and inputs.
    """
    problems: list[Problem] = []

    def report(index: int) -> Any:
        prefix = recipe.prefix(index)
        return lambda key, what, do: problems.append(_at(prefix, key, what, do))

    nodes = wire(recipe.stages, recipe.labels, recipe.header.seed, report, salt)
    plan = make_plan(nodes, store, lambda node: report(node.index))
    recipe.source.refuse(problems, f"{recipe.name} cannot run")
    if probe:
        measure(plan)
    return nodes, plan


def measure(plan: Plan) -> None:
    """Probe this machine for the stages that are still to be made: the same ones on all ranks, which train together."""
    states = from_main(lambda: [entry.state for entry in plan.entries])
    for entry, state in zip(plan.entries, states, strict=True):
        entry.state = state
    plan.measure()


def execute(nodes: Sequence[Node], store: Store, recipe: Recipe) -> list[Artefact]:
    """Make, in order, what is not there."""
    artefacts: list[Artefact] = []
    for node in nodes:
        artefacts.append(make(node, store, recipe, artefacts))
    return artefacts


def make(node: Node, store: Store, recipe: Recipe, finished: Sequence[Artefact]) -> Artefact:
    """The artefact of a stage: reused when it is there and intact, else made."""
    found = from_main(lambda: store.find(node))
    if found.state == "made":
        if is_main():
            store.drop_work(node)
        return store.artefact(node, found.folder)
    if found.state == "damaged":
        warn(f"{found.folder} is damaged ({'; '.join(found.wrong)}); making it again")
        if found.folder != store.place(node) and is_main():
            shutil.rmtree(found.folder)
    say(f"[bold]{node.label}[/] [dim]({node.stage.verb})[/]")
    job = Job(
        name=node.label,
        seed=node.seed,
        inputs={name: [store.source(each) for each in sources] for name, sources in node.inputs.items()},
        folder=store.place(node),
        work=store.work(node),
        run=lambda stage, label: make(node.variant(stage, label), store, recipe, finished),
        finished=finished,
        recipe={"name": recipe.name, "seed": recipe.header.seed, "raw": recipe.raw, "labels": recipe.labels},
        main=is_main(),
    )
    if is_main():
        write(node, store, job)
    elif node.stage.on_all_ranks:
        node.stage.make(job)
    wait()
    store.forget(node)
    return store.artefact(node, store.place(node))


def write(node: Node, store: Store, job: Job) -> None:
    """Carry out a stage in a new folder, which becomes the artefact when it is complete."""
    start = time.perf_counter()
    facts: dict[str, Any] = {}
    with store.writing(node, facts) as part:
        made = node.stage.make(replace(job, folder=part))
        if made.ledger is not None:
            write_json(part / "ledger.json", made.ledger.to_dict())
        facts.update(made.facts)
        facts["stage"] = {
            "verb": node.stage.verb,
            "kind": node.stage.makes,
            "name": node.label,
            "hash": node.hash,
            "for": node.asked_by,
            "seed": node.seed,
            "values": node.stage.model_dump(mode="json", by_alias=True),
            "inputs": {name: [each.hash for each in sources] for name, sources in node.inputs.items()},
            "versions": versions(),
            "seconds": round(time.perf_counter() - start, 3),
        }


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    from importlib.metadata import PackageNotFoundError, version

    from pomona import __version__

    found = {"pomona": __version__}
    for package in ("torch", "transformers", "tokenizers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _at(prefix: str, key: str, what: str, do: str) -> Problem:
    return Problem(".".join(part for part in (prefix, key) if part), what, do)


__all__ = ["Run", "Stage", "call", "execute", "prepare", "run"]
