"""Carry out `distil` on texts: a classifier learns what a teacher says of each, whatever their labels are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from pomona import anatomy
from pomona.distillation import Lesson, Teacher
from pomona.engine import FitConfig, Ledger, fit, measure_flops
from pomona.engine.speed import fast_products, training_dtype
from pomona.ground.console import say
from pomona.ground.errors import UnsupportedModel
from pomona.ground.ranks import world_size
from pomona.stages import models
from pomona.stages.base import Artefact, Job, Made
from pomona.stages.train import Numbered, choose_rate, restarted
from pomona.stages.training import with_rate
from pomona.tasks import Classify, Examples, ExampleStream, encode, held_out_batches, score
from pomona.tasks.classifier import from_base, ready_tokenizer
from pomona.tasks.stream import Encoded

if TYPE_CHECKING:
    from pomona.stages.distil import DistilStage


def teach(stage: DistilStage, job: Job) -> Made:
    """Train a classifier on what the teacher says of the texts of `examples`; the labels to train on are not read."""
    taught_by, examples = job.input("teacher"), Examples.open(job.input("examples").folder)
    teacher = Teacher(models.load(taught_by.folder))
    labels = labels_of(teacher.body.model)
    tokenizer = ready_tokenizer(models.load_tokenizer(taught_by.folder), teacher.body.model)
    student = _student(stage, job, taught_by, labels, tokenizer)
    body = anatomy.of(student)
    lesson: Lesson = stage.method.build(teacher, Classify())  # type: ignore[attr-defined]
    texts = unlabelled([example.text for example in examples.side("train")], tokenizer, stage.seq_length)
    stream = Numbered(ExampleStream(texts, batch_size=stage.batch_size, seed=job.seed, world_size=world_size()))
    same = tuple(examples.labels) == labels
    choice, told = (
        encode(examples.side(side) if same else [], labels, tokenizer, stage.seq_length)
        for side in ("validation", examples.held_out())
    )
    first = lesson.prepare(stream.batch(0)[0], torch.Generator().manual_seed(job.seed))
    with fast_products(body, student.device):  # counted as it will run
        steps = stage.budget_in_steps(job, measure_flops(body, lesson, first) * stage.batch_size)
    sweep, facts, optimizer_config = Ledger(), dict[str, Any](), stage.optimizer
    if stage.sweep is not None:
        rate, facts["sweep"] = choose_rate(stage, job, steps, sweep)
        optimizer_config = with_rate(optimizer_config, rate)
    restarts = lesson.restarts(steps)
    schedule = restarted(stage.schedule, restarts, steps) if restarts else stage.schedule.build(steps)  # type: ignore[attr-defined]
    assert isinstance(stage.engine, FitConfig)
    training = fit(
        student,
        lesson,
        stream,
        optimizer_config.build(body, total_steps=steps),  # type: ignore[attr-defined]
        schedule,
        steps=steps,
        config=stage.engine.model_copy(update={"seed": job.seed}),
        folder=job.work / "fit",
        validation=held_out_batches(choice),
        scoring=lesson.judge(Classify()),
        restarts=restarts,
        title=job.name,
    )
    if not job.main:
        return Made()
    facts |= lesson.finish_(body)
    training.ledger.move("train", "teacher", teacher_flops(lesson, stream, training.ledger.steps))
    training.ledger.merge(sweep, "sweep")
    models.save(student, tokenizer, job.folder)
    shutil.copyfile(job.work / "fit" / "metrics.jsonl", job.folder / "metrics.jsonl")
    if len(told):
        scores = score(body, held_out_batches(told), dtype=training_dtype("auto"))
        say(f"  {job.name}: accuracy {scores.accuracy:.1%}, macro-F1 {scores.macro_f1:.3f}")
        facts |= {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1, "scores": scores.to_dict()}
    facts |= {
        "task": "classify",
        "labels": list(labels),
        "parameters": body.parameter_count(),
        "blocks": len(body.blocks),
        "quality": training.quality.to_dict() if training.quality else None,
        "steps": training.ledger.steps,
        "tokens": training.ledger.tokens,
        "learning_rate": getattr(optimizer_config, "learning_rate", None),
        "note": f"{stage.optimizer.method}, {stage.schedule.method}, {training.ledger.steps:,} steps",
    }
    return Made(facts, training.ledger)


def labels_of(model: PreTrainedModel) -> tuple[str, ...]:
    """What a classifier's outputs stand for, in order."""
    Classify().check(anatomy.of(model))
    named = {int(number): label for number, label in model.config.id2label.items()}
    return tuple(named[number] for number in sorted(named))


def unlabelled(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, seq_length: int) -> Encoded:
    """Texts as the tokenizer makes them; every one is a target, and none has a label (all are 0)."""
    rows = tokenizer(list(texts), truncation=True, max_length=seq_length)["input_ids"]
    assert tokenizer.pad_token_id is not None
    return Encoded(rows, [0] * len(texts), int(tokenizer.pad_token_id), seq_length)


def teacher_flops(lesson: Lesson, stream: Numbered, steps: int) -> float:
    """What the teacher cost in a run: batches differ in length, and are made again to see it."""
    known: dict[int, float] = {}
    total = 0.0
    for step in range(steps):
        for raw in stream.batch(step):
            batch = lesson.prepare(raw, torch.Generator().manual_seed(step))
            rows, length = batch["input_ids"].shape
            if length not in known:
                known[length] = lesson.teacher_flops(batch)
            total += known[length] * rows
    return total * world_size()


def _student(
    stage: DistilStage, job: Job, taught_by: Artefact, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """The classifier to be trained: of a model that is there, of a description, or the teacher's copy."""
    if stage.model is not None:
        config = models.config_from(stage.model, len(tokenizer))
        models.adopt_special_tokens(config, tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)
            base = AutoModel.from_config(config, dtype=torch.float32)
    else:
        base = models.load((job.input("from") if stage.from_ else taught_by).folder)
    if base.config.vocab_size < len(tokenizer):
        raise UnsupportedModel(
            "the student cannot read the teacher's tokens",
            needs=f"a vocabulary of {len(tokenizer)}",
            found=str(base.config.vocab_size),
            do="train the student with the teacher's tokenizer",
        )
    return from_base(base, labels, tokenizer, seed=job.seed)
