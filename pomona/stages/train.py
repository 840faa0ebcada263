"""Carry out a training stage: sweep, fit, save. Everything that needs torch is here, not in the definitions."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import PreTrainedModel

from pomona import anatomy
from pomona.distillation import Lesson
from pomona.engine import Batch, FitConfig, Ledger, Objective, Schedule, attach, auxiliary, fit, measure_flops
from pomona.engine.fit import Stream
from pomona.engine.speed import fast_products
from pomona.ground.config import MethodConfig
from pomona.ground.console import say, warn
from pomona.ground.errors import ConfigError, TrainingDiverged
from pomona.ground.files import read_json, write_json
from pomona.ground.ranks import from_main
from pomona.objectives.reading import ReadingMethod
from pomona.sparsity import Started, fixed_zeros, zero_flops
from pomona.stages import main_line
from pomona.stages.base import Artefact, Job, Made
from pomona.stages.fitting import judged_by
from pomona.stages.material import Material, Read, material_of
from pomona.stages.models import save
from pomona.stages.training import TrainingStage, with_rate


def train(
    stage: TrainingStage,
    job: Job,
    model: PreTrainedModel,
    source: Artefact | None = None,
    *,
    lesson: Callable[[Objective], Lesson] | None = None,
) -> Made:
    """Train `model` as the stage says and write it into the job's folder.

    Args:
        source: what the model was loaded from. Where it was trained on the same tokens with the same seed, the run
            goes on where that one stopped in the data, instead of reading the same text again. Where it was trained
            under a schedule that this one continues, the run starts from the state before annealing.
        lesson: makes a lesson of the stage's objective, for a student with a teacher.
    """
    before = dict(source.facts) if source else {}
    line = main_line.line_of(stage.schedule, before)
    resumes = main_line.resumes_state(stage.schedule, line)
    data = job.input("data")
    material = material_of(data)
    material.require(model)
    sparsity = getattr(stage, "sparsity", None)
    started: Started | None = sparsity.start_(model, job.seed) if sparsity else None
    body = anatomy.of(model)
    task: Objective = stage.objective.build(material.tokenizer)  # type: ignore[attr-defined]
    objective = lesson(task) if lesson else task
    attach(objective, body, seed=job.seed)
    if source is not None:
        auxiliary.recall(source.folder, objective)
    judge = judged_by(stage.objective)
    scoring: Objective | None = None
    if isinstance(objective, Lesson) or judge is not stage.objective:
        scoring = judge.build(material.tokenizer)  # type: ignore[attr-defined]
    if isinstance(objective, Lesson) and scoring is not None:
        scoring = objective.judge(scoring)
    earlier = _already_read(data, job.seed, line["read"] if line and resumes else before.get("read"))
    stream = material.stream(stage, job.seed, earlier)
    if isinstance(objective, Lesson):
        stream = Numbered(stream)
    rows = objective.prepare(stream.batch(0)[0], torch.Generator().manual_seed(job.seed))
    with fast_products(body, model.device):  # counted as it will run
        length = material.length(stage, rows)
        per_step = measure_flops(body, objective, rows) * stage.batch_size
        steps = stage.budget_in_steps(job, per_step, length * stage.batch_size)

    sweep = Ledger()
    optimizer_config = main_line.optimizer_of(stage, line)
    facts: dict[str, Any] = {}
    if stage.sweep is not None:
        rate, facts["sweep"] = choose_rate(stage, job, steps, sweep)
        optimizer_config = with_rate(optimizer_config, rate)
    if isinstance(stage.objective, ReadingMethod):
        stream = material.chosen_by(stage.objective, stage, steps, job.seed)
        stream = Numbered(stream) if isinstance(objective, Lesson) else stream
    optimizer = optimizer_config.build(body, total_steps=steps)  # type: ignore[attr-defined]
    schedule = main_line.build(stage.schedule, line, steps)
    restarts = objective.restarts(steps) if isinstance(objective, Lesson) else ()
    if restarts:
        schedule = restarted(stage.schedule, restarts, steps)
    if source and resumes:
        main_line.restore(source.folder, model, optimizer, objective)
    assert isinstance(stage.engine, FitConfig)
    if started is not None and not started.continues and main_line.fork_of(schedule, steps) is not None:
        raise ConfigError(
            f"{job.name} cannot train sparse under {stage.schedule.method}, which later datasets continue",
            do="choose a schedule that ends, such as warmup-cosine",
        )
    sparse = started is None and bool(before.get("zeros")) and getattr(stage, "zeros", "held") == "held"
    holding = fixed_zeros(body, optimizer) if sparse else nullcontext()
    with started.holding(body, optimizer) if started else holding:
        training = fit(
            model,
            objective,
            stream,
            optimizer,
            schedule,
            steps=steps,
            config=stage.engine.model_copy(update={"seed": job.seed}),
            folder=job.work / "fit",
            validation=material.held_out(stage, length),
            watched=watched(stage, job, material, length),
            scoring=scoring,
            token_bytes=material.token_bytes,
            keep_state_after=main_line.fork_of(schedule, steps),
            restarts=restarts,
            title=job.name,
        )
    if not job.main:
        return Made()
    if isinstance(objective, Lesson):
        facts |= objective.finish_(body)
        taught = objective.teacher_flops(rows) * stage.batch_size * training.ledger.steps
        training.ledger.move("train", "teacher", taught)
    if started is not None:
        facts |= started.finish_(training.ledger.tokens)
        body = anatomy.of(model)
    save(model, material.preparer(model), job.folder)
    auxiliary.keep(objective, job.folder)
    shutil.copyfile(job.work / "fit" / "metrics.jsonl", job.folder / "metrics.jsonl")
    training.ledger.merge(sweep, "sweep")

    def read(count: int) -> dict[str, Any]:
        runs = [*earlier, (count, stage.batch_size, length)]
        return {"data": data.hash, "seed": job.seed, "runs": runs}

    if (fork := main_line.fork_of(schedule, steps)) is not None:
        main_line.keep(job)
        swept = stage.sweep is not None or bool(line and line["swept"])
        facts["main_line"] = main_line.described(schedule, steps, optimizer_config, swept, read(fork))
    if sparse:
        zeros = sum(int((parameter == 0).sum()) for _, parameter in body.matrices())
        facts |= {"zeros": before["zeros"], "zero_flops": zero_flops(zeros, training.ledger.tokens)}
    facts |= {
        "parameters": body.parameter_count(),
        "blocks": len(body.blocks),
        "quality": training.quality.to_dict() if training.quality else None,
        "steps": training.ledger.steps,
        "tokens": training.ledger.tokens,
        "objective": stage.objective.model_dump(mode="json"),
        "learning_rate": getattr(optimizer_config, "learning_rate", None),
        "read": read(training.ledger.steps),
        "note": f"{stage.optimizer.method}, {stage.schedule.method}, {training.ledger.steps:,} steps",
    }
    return Made(facts, training.ledger)


def choose_rate(stage: TrainingStage, job: Job, steps: int, ledger: Ledger) -> tuple[float, dict[str, float | None]]:
    """The learning rate whose pilot ends lowest on held-out text, and what every pilot reached (None: diverged).

    A pilot that ends is an artefact, found again by itself. One that diverges is noted in the stage's work folder, so
    that a resumed run does not repeat it.
    """
    assert stage.sweep is not None
    reached: dict[float, float | None] = {}
    notes = job.work / "diverged.json"
    diverged: dict[str, Any] = from_main(lambda: read_json(notes) if notes.is_file() else {})
    pilot_steps = stage.pilot_steps(steps)
    for rate in stage.sweep.learning_rate:
        key = f"{rate!r} over {pilot_steps} steps"
        if key not in diverged:
            try:
                pilot = job.run(stage.pilot(rate, pilot_steps), f"{job.name}-pilot-{rate:g}")
            except TrainingDiverged as error:
                warn(f"the pilot at {rate:g} diverged: {error.what}")
                diverged[key] = error.spent or Ledger().to_dict()
                if job.main:
                    write_json(notes, diverged)
            else:
                reached[rate] = float(pilot.facts["quality"]["nats_per_token"])
                ledger.merge(Ledger.from_dict(pilot.ledger()))
                continue
        reached[rate] = None
        ledger.merge(Ledger.from_dict(diverged[key]))
    losses = {rate: loss for rate, loss in reached.items() if loss is not None and math.isfinite(loss)}
    if not losses:
        raise TrainingDiverged(f"every pilot of {job.name} diverged", do="sweep lower learning rates")
    best = min(losses, key=lambda rate: losses[rate])
    shown = ", ".join(f"{rate:g}: {'diverged' if loss is None else f'{loss:.3f}'}" for rate, loss in reached.items())
    edge = best in (min(reached), max(reached)) and len(reached) > 2
    say(f"  learning rate {best:g} of {shown}" + (" [dim](at the edge of the sweep)[/]" if edge else ""))
    return best, {f"{rate:g}": loss for rate, loss in reached.items()}


def restarted(method: MethodConfig, restarts: Sequence[int], steps: int) -> Schedule:
    """A schedule that begins anew at each of `restarts` and ends before the next, or with the run."""
    edges = [0, *restarts, steps]
    parts = [main_line.build(method, None, end - start) for start, end in pairwise(edges)]

    def share(step: int) -> float:
        part = sum(step >= start for start in restarts)
        return parts[part](step - edges[part])

    return share


@dataclass(frozen=True)
class Numbered:
    """A stream whose batches carry the number of their step, (B,) int64."""

    stream: Stream

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        made = self.stream.batch(step, rank, micro_batches=micro_batches)
        return [{**each, "step": torch.full((len(next(iter(each.values()))),), step)} for each in made]


def watched(stage: TrainingStage, job: Job, material: Material, length: int) -> dict[str, Sequence[Batch]]:
    """The held-out batches of what is scored beside, by name; what the model could not read alike is refused."""
    found = {}
    for artefact in job.inputs.get("watch", ()):
        other = material_of(artefact)
        material.require_alike(other, artefact.name, job.input("data").name)
        if batches := other.held_out(stage, length):
            found[artefact.name] = batches
    return found


def _already_read(data: Artefact, seed: int, read: Mapping[str, Any] | None) -> Read:
    if not read or read["data"] != data.hash or read["seed"] != seed:
        return []
    return [(int(steps), int(size), int(length)) for steps, size, length in read["runs"]]
