"""Carry out `report` and `export`: from artefacts and their lineage to a page and a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from pomona.examination.records import Arm, ModelRow, ReportData, Role, Sample, StageRecord, examination_from_dict
from pomona.examination.report import write_report
from pomona.ground.files import MANIFEST, read_json
from pomona.ground.machine import machine
from pomona.stages.base import Artefact, Job, Made

if TYPE_CHECKING:
    from pomona.stages.export import ExportStage
    from pomona.stages.report import ReportStage


def report(stage: ReportStage, job: Job) -> Made:
    """Write report.html."""
    examination = job.input("from")
    arms = (
        given_arms(stage, job) if stage.arms else arms_of(job.inputs["models"], str(job.recipe.get("name", "recipe")))
    )
    arm_of = {each.name: arm.name for arm in arms for each in arm.stages}
    measured = read_json(examination.folder / "examination.json")
    rows = [
        ModelRow(**{**row, "quality": row["quality"] and examination_from_dict(row["quality"])})
        for row in measured["models"]
    ]
    shared = shared_of(job.inputs["models"])
    corpus = next((artefact for artefact in shared if artefact.kind == "corpus"), None)
    name = str(job.recipe.get("name", "recipe"))
    data = ReportData(
        title=stage.title or name,
        arms=tuple(arms),
        models=tuple(replace(row, arm=arm_of.get(row.name, "")) for row in rows),
        samples=tuple(Sample(**sample) for sample in measured["samples"]),
        shared=tuple(record(artefact) for artefact in shared),
        recipe=yaml.safe_dump(dict(job.recipe.get("text", {})), sort_keys=False, allow_unicode=True, width=110),
        corpus=corpus_facts(corpus),
        machine=machine().asdict(),
        versions=examination.facts["stage"]["versions"],
        reproduce=(f"pomona run {name}",),
        notes=(f"one seed ({job.recipe.get('seed', 0)})", *stage.notes),
    )
    write_report(job.folder / "report.html", data)
    return Made({"open": "report.html", "note": "report.html"})


def arms_of(made: Sequence[Artefact], recipe: str) -> list[Arm]:
    """One arm for each model that is trained from scratch, with everything that came of it.

    An arm whose budget is what other stages cost (`flops_of`) is a baseline.
    """
    chains: dict[str, list[Artefact]] = {}
    for artefact in made:
        chains.setdefault(root_of(artefact).name, []).append(artefact)
    baselines = {root for root, chain in chains.items() if any(each.parents.get("flops_of") for each in chain)}
    arms = []
    for root, chain in chains.items():
        role: Role = "baseline" if root in baselines else "recipe"
        alone = role == "recipe" and len(chains) - len(baselines) == 1
        arms.append(Arm(recipe if alone else root, role, tuple(record(each) for each in chain)))
    return arms


def given_arms(stage: ReportStage, job: Job) -> list[Arm]:
    """The arms that the recipe names by their last stages."""
    arms = []
    for name, last in zip(stage.arms, job.inputs["arms"], strict=True):
        chain = [last]
        while before := _before(chain[0]):
            chain.insert(0, before)
        role: Role = "baseline" if any(each.parents.get("flops_of") for each in chain) else "recipe"
        arms.append(Arm(name, role, tuple(record(each) for each in chain)))
    return arms


def root_of(artefact: Artefact) -> Artefact:
    """The model that the chain of this one began with."""
    before = _before(artefact)
    return artefact if before is None else root_of(before)


def shared_of(made: Sequence[Artefact]) -> list[Artefact]:
    """The corpora and tokens that the models were made of, each once, sources first."""
    found: dict[str, Artefact] = {}
    for model in made:
        for tokens in model.parents.get("data", ()):
            for corpus in tokens.parents.get("from", ()):
                found.setdefault(corpus.hash, corpus)
            found.setdefault(tokens.hash, tokens)
    return list(found.values())


def record(artefact: Artefact) -> StageRecord:
    """A finished stage as the report reads it."""
    file = artefact.folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    keys = ("parameters", "quality", "note")
    facts = {key: artefact.facts[key] for key in keys if artefact.facts.get(key) is not None}
    ledger = artefact.ledger()
    if not ledger:
        seconds = artefact.facts.get("stage", {}).get("seconds", 0.0)
        ledger = {"purposes": {artefact.verb: {"flops": 0.0, "seconds": seconds, "tokens": 0}}}
    return StageRecord(artefact.name, artefact.verb, ledger, [json.loads(line) for line in lines], facts)


def corpus_facts(corpus: Artefact | None) -> dict[str, Any]:
    """What the report says about the text."""
    if corpus is None:
        return {}
    known = ("documents", "bytes", "fingerprint", "sources", "splits", "duplicates", "near_duplicates", "bad_lines")
    return {key: corpus.facts[key] for key in known if key in corpus.facts}


def export(stage: ExportStage, job: Job) -> Made:
    """Copy a model's folder and write its card."""
    source = job.input("from")
    for file in sorted(source.folder.iterdir()):
        if file.is_file() and file.name not in (MANIFEST, "metrics.jsonl", "README.md"):
            shutil.copyfile(file, job.folder / file.name)
    facts = {key: source.facts[key] for key in ("parameters", "quality", "bits", "group_size") if key in source.facts}
    return Made({**facts, "note": stage.title or source.name})


def _before(artefact: Artefact) -> Artefact | None:
    """The model that a stage began with."""
    sources = [*artefact.parents.get("from", ()), *artefact.parents.get("model", ())]
    return next((source for source in sources if source.kind == "model"), None)
