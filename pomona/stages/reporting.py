"""Carry out `report` and `export`: from artefacts and their lineage to a page and a model card."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml
from transformers.utils import IMAGE_PROCESSOR_NAME

from pomona.examination.card import CardData, write_card
from pomona.examination.records import (
    Arm,
    Examination,
    ModelRow,
    ReportData,
    Role,
    Sample,
    StageRecord,
    examination_from_dict,
)
from pomona.examination.report import write_report
from pomona.examination.size import BESIDE
from pomona.ground.files import read_json, write_json
from pomona.ground.machine import machine
from pomona.stages.base import Artefact, Job, Made
from pomona.stages.measuring import row_of

if TYPE_CHECKING:
    from pomona.stages.export import ExportStage
    from pomona.stages.report import ReportStage


def report(stage: ReportStage, job: Job) -> Made:
    """Write report.html, and report.json with what it is made of."""
    examination, made = job.input("from"), job.inputs["models"]
    name = str(job.recipe.get("name", "recipe"))
    chains = given_chains(stage, job) if stage.arms else chains_of(made, name)
    arms = [arm_of(title, chain) for title, chain in chains.items()]
    arm_names = {each.name: arm.name for arm in arms for each in arm.stages}
    measured = read_json(examination.folder / "examination.json")
    rows = [ModelRow(**{**row, "quality": examination_from_dict(row["quality"])}) for row in measured["models"]]
    data = ReportData(
        title=stage.title or name,
        arms=tuple(arms),
        models=tuple(replace(row, arm=arm_names.get(row.name, "")) for row in rows),
        samples=tuple(Sample(**sample) for sample in measured["samples"]),
        shared=tuple(record(artefact) for artefact in shared_of(made)),
        recipe=text_of(job.recipe),
        corpus=corpus_facts(made),
        machine=machine().asdict(),
        versions=examination.facts["stage"]["versions"],
        reproduce=(f"pomona run {name}",),
        notes=(f"one seed ({job.recipe.get('seed', 0)})", *stage.notes),
    )
    write_report(job.folder / "report.html", data)
    write_json(job.folder / "report.json", data.to_dict())
    return Made({"open": "report.html", "note": "report.html"})


def export(stage: ExportStage, job: Job) -> Made:
    """Copy what is needed to run a model, and write its card."""
    source = job.input("from")
    for file in sorted(source.folder.iterdir()):
        if file.is_file() and file.name not in BESIDE and not file.name.startswith("."):
            shutil.copyfile(file, job.folder / file.name)
    chain = chain_of(source)
    row = row_of(source, quality_of(source.facts.get("quality")))
    architecture = str((read_json(source.folder / "config.json").get("architectures") or ["AutoModel"])[0])
    write_card(
        job.folder,
        CardData(
            model=replace(row, name=stage.title or source.name, folder=job.folder.name.strip(".").partition(".")[0]),
            arm=arm_of(str(job.recipe.get("name", source.name)), chain),
            license=stage.license,
            base_model=tuple(each.name for each in chain if each.verb == "outside"),
            parents=next((each.facts["parents"] for each in reversed(chain) if each.facts.get("parents")), ()),
            architecture=architecture,
            task=task_of(architecture, pictures=(source.folder / IMAGE_PROCESSOR_NAME).is_file()),
            recipe=text_of(job.recipe, {each.name for each in lineage([source])} | {job.name}),
            corpus=corpus_facts([source]),
            machine=machine().asdict(),
            versions=source.facts.get("stage", {}).get("versions", {}),
        ),
    )
    facts = {key: source.facts[key] for key in ("parameters", "quality", "bits", "group_size") if key in source.facts}
    return Made({**facts, "note": stage.title or source.name})


def task_of(architecture: str, *, pictures: bool = False) -> str:
    """The Hub's `pipeline_tag` for what a class of transformers does with texts, or with pictures."""
    if pictures:
        return "image-classification" if architecture.endswith("ForImageClassification") else "image-feature-extraction"
    if architecture.endswith("ForMaskedLM"):
        return "fill-mask"
    return "text2text-generation" if architecture.endswith("ForConditionalGeneration") else "text-generation"


def chains_of(made: Sequence[Artefact], recipe: str) -> dict[str, list[Artefact]]:
    """One chain for each model that is trained from scratch, with everything that came of it, by the name to show."""
    chains: dict[str, list[Artefact]] = {}
    for artefact in made:
        chains.setdefault(chain_of(artefact)[0].name, []).append(artefact)
    own = [root for root, chain in chains.items() if role_of(chain) == "recipe"]
    return {recipe if own == [root] else root: chain for root, chain in chains.items()}


def given_chains(stage: ReportStage, job: Job) -> dict[str, list[Artefact]]:
    """The chains that the recipe names by their last stages."""
    return {title: chain_of(last) for title, last in zip(stage.arms, job.inputs["arms"], strict=True)}


def chain_of(artefact: Artefact) -> list[Artefact]:
    """The models that led to this one, each once, and itself."""
    fields = ("teacher", "from", "model", "base", "experts")
    sources = [source for field in fields for source in artefact.parents.get(field, ())]
    before = [each for source in sources if source.kind == "model" for each in chain_of(source)]
    return list({each.hash: each for each in (*before, artefact)}.values())


def role_of(chain: Sequence[Artefact]) -> Role:
    """An arm whose budget is what other stages cost (`flops_of`) is a baseline."""
    return "baseline" if any(each.parents.get("flops_of") for each in chain) else "recipe"


def arm_of(name: str, chain: Sequence[Artefact]) -> Arm:
    """A chain as the report reads it."""
    return Arm(name, role_of(chain), tuple(record(each) for each in chain))


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


def lineage(made: Iterable[Artefact]) -> list[Artefact]:
    """Everything that these were made of, and themselves, each once, sources first."""
    found: dict[str, Artefact] = {}

    def visit(artefact: Artefact) -> None:
        for sources in artefact.parents.values():
            for source in sources:
                visit(source)
        found.setdefault(artefact.hash, artefact)

    for artefact in made:
        visit(artefact)
    return list(found.values())


def shared_of(made: Sequence[Artefact]) -> list[Artefact]:
    """The corpora and tokens that the models were made of."""
    return [artefact for artefact in lineage(made) if artefact.kind in ("corpus", "tokens")]


def corpus_facts(made: Sequence[Artefact]) -> dict[str, Any]:
    """What report and card say about the text."""
    known = ("documents", "bytes", "exact_copies", "near_copies", "bad_lines", "fingerprint")
    found = {}
    for corpus in lineage(made):
        if corpus.kind == "corpus":
            sources = {source["path"]: source["documents"] for source in corpus.facts.get("sources", ())}
            facts = {key: corpus.facts[key] for key in known if corpus.facts.get(key)}
            found[corpus.name] = facts | {"sources": sources}
    return next(iter(found.values())) if len(found) == 1 else found


def quality_of(facts: Mapping[str, Any] | None) -> Examination | None:
    """A stage's held-out quality as an examination."""
    if not facts:
        return None
    nats = float(facts["nats_per_token"])
    return Examination(
        nats_per_token=nats,
        bits_per_byte=facts["bits_per_byte"],
        perplexity=math.exp(min(nats, 700.0)),
        accuracy=facts["accuracy"],
        tokens=facts["tokens"],
        bytes=facts["bytes"],
    )


def text_of(recipe: Mapping[str, Any], only: set[str] | None = None) -> str:
    """The recipe as it ran, overrides included, as YAML; with `only`, just those stages."""
    raw = dict(recipe.get("raw", {}))
    if only is not None and "stages" in raw:
        raw["stages"] = [stage for stage, label in zip(raw["stages"], recipe["labels"], strict=True) if label in only]
    return yaml.dump(raw, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """Without anchors: a shared value is written out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
