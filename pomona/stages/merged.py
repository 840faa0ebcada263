"""Carry out `merge`: the weights, and what their parents say about themselves."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pomona import anatomy
from pomona.engine import Ledger
from pomona.merging.config import MergeConfig
from pomona.merging.folders import license_of, merge_into
from pomona.stages.base import Artefact, Job, Made

if TYPE_CHECKING:
    from pomona.stages.merge import MergeStage


def merge(stage: MergeStage, job: Job) -> Made:
    """Merge the folders of the base and the experts into the job's folder."""
    assert isinstance(stage.method, MergeConfig)
    parents = [job.input("base"), *job.inputs["experts"]]
    report = merge_into(
        job.folder,
        parents[0].folder,
        [expert.folder for expert in parents[1:]],
        stage.method,
        dtype=stage.dtype,
        names=[parent.name for parent in parents],
    )
    ledger = Ledger()
    ledger.charge("merge", seconds=report.seconds)
    model = anatomy.shadow(job.folder)
    told = zip(report.parents, parents, strict=True)
    facts: dict[str, Any] = {
        "parameters": model.num_parameters(),
        "blocks": sum(len(body.blocks) for body in anatomy.towers(model).values()),
        "parents": [{**asdict(each), "license": licenses(parent)} for each, parent in told],
        "note": f"{stage.method.method} of {', '.join(expert.name for expert in parents[1:])}",
    }
    objectives = [expert.facts.get("objective") for expert in parents[1:]]
    if objectives[0] is not None and all(each == objectives[0] for each in objectives):
        facts["objective"] = objectives[0]
    return Made(facts, ledger)


def licenses(artefact: Artefact) -> str | None:
    """The licence that a model's card states, else those of the models that it was made of."""
    own = license_of(artefact.folder)
    if own is not None:
        return own
    found = {licenses(each) for sources in artefact.parents.values() for each in sources if each.kind == "model"}
    return ", ".join(sorted(each for each in found if each is not None)) or None
