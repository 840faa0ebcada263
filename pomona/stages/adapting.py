"""Carry out `adapt`: an assignment (what is learnt, from what), a method attached to the model, training, scores."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor

from pomona import anatomy
from pomona.adapters.adapter import Adapter
from pomona.adapters.loading import FOLDER
from pomona.anatomy import Anatomy
from pomona.data import ImageBatches, ImageFolder, Tokens
from pomona.engine import Batch, FitConfig, Ledger, Objective, fit, measure_flops
from pomona.engine.fit import Stream
from pomona.engine.speed import fast_products, training_dtype
from pomona.ground.console import say
from pomona.ground.errors import ConfigError, DataError
from pomona.ground.files import write_json
from pomona.ground.ranks import world_size
from pomona.stages import models
from pomona.stages.adapt import AdaptStage
from pomona.stages.base import Artefact, Job, Made
from pomona.stages.material import Pictures, Text
from pomona.stages.train import choose_rate
from pomona.stages.training import with_rate
from pomona.tasks import Classify, Examples, ExampleStream, classifier_for, encode, held_out_batches, score
from pomona.tasks.classifier import head_of, ready_tokenizer
from pomona.tasks.pictures import ClassifyPictures, picture_classifier_for, score_pictures


@dataclass
class Assignment:
    """What a model is to learn.

    Attributes:
        model: ready for it.
        preparer: what makes its inputs, saved beside it.
        head: parameters that are the task's own.
        objective, stream, validation: as `fit` takes them.
        token_bytes: of each token, where the objective is a likelihood of text.
        steps: that the stage's `epochs` mean; None where the budget is another one.
        scored: facts about the model in the end.
    """

    model: PreTrainedModel
    preparer: PreTrainedTokenizerBase | BaseImageProcessor
    objective: Objective
    stream: Stream
    validation: Sequence[Batch]
    head: Sequence[nn.Parameter] = ()
    token_bytes: Tensor | None = None
    steps: int | None = None
    scored: Callable[[Anatomy], dict[str, Any]] = field(default=lambda body: {})


def adapt(stage: AdaptStage, job: Job) -> Made:
    """Adapt the input's model as the stage says and write it into the job's folder."""
    source = job.input("from")
    assignment = assigned(stage, job, source)
    body = anatomy.of(assignment.model)
    adapter = stage.method.attach_(body, head=assignment.head, seed=job.seed)  # type: ignore[attr-defined]
    body = anatomy.of(assignment.model)
    objective, stream = adapter.taught(assignment.objective, assignment.stream, job.seed)
    steps = assignment.steps
    if steps is None:
        one = assignment.objective.prepare(assignment.stream.batch(0)[0], torch.Generator().manual_seed(job.seed))
        with fast_products(body, assignment.model.device):  # counted as it will run
            steps = stage.budget_in_steps(job, measure_flops(body, assignment.objective, one) * stage.batch_size)
    sweep = Ledger()
    optimizer_config = stage.optimizer
    facts: dict[str, Any] = {}
    if stage.sweep is not None:
        rate, facts["sweep"] = choose_rate(stage, job, steps, sweep)
        optimizer_config = with_rate(optimizer_config, rate)
    optimizer = optimizer_config.build(body, total_steps=steps)  # type: ignore[attr-defined]
    trained = sum(parameter.numel() for parameter in assignment.model.parameters() if parameter.requires_grad)
    assert isinstance(stage.engine, FitConfig)
    training = fit(
        assignment.model,
        objective,
        stream,
        optimizer,
        stage.schedule.build(steps),  # type: ignore[attr-defined]
        steps=steps,
        config=stage.engine.model_copy(update={"seed": job.seed}),
        folder=job.work / "fit",
        validation=assignment.validation,
        token_bytes=assignment.token_bytes,
        title=job.name,
    )
    if not job.main:
        return Made()
    facts |= at_every_size(adapter, assignment)
    adapter.save(job.folder / FOLDER)
    facts |= assignment.scored(body) if not adapter.mergeable else {}
    if adapter.mergeable:
        adapter.merge_()
        body = anatomy.of(assignment.model)
        facts |= assignment.scored(body)
    else:
        adapter.detach_()
        setattr(assignment.model.config, anatomy.KEEPS, stage.method.method)
    models.save(assignment.model, assignment.preparer, job.folder)
    shutil.copyfile(job.work / "fit" / "metrics.jsonl", job.folder / "metrics.jsonl")
    training.ledger.merge(sweep, "sweep")
    training.ledger.charge("attach", flops=adapter.cost[0], seconds=adapter.cost[1])
    if "accuracy" in facts:
        say(f"  {job.name}: accuracy {facts['accuracy']:.1%}, macro-F1 {facts['macro_f1']:.3f}")
    if happened := adapter.report():
        write_json(job.folder / "adapter.report.json", happened)
    facts |= {
        "parameters": body.parameter_count(),
        "trained_parameters": trained,
        "blocks": len(body.blocks),
        "quality": training.quality.to_dict() if training.quality else None,
        "steps": training.ledger.steps,
        "tokens": training.ledger.tokens,
        "learning_rate": getattr(optimizer_config, "learning_rate", None),
        "note": f"{stage.method.method}, {trained:,} parameters trained, {training.ledger.steps:,} steps",
    }
    return Made(facts, training.ledger)


def assigned(stage: AdaptStage, job: Job, source: Artefact) -> Assignment:
    """What the stage asks the model to learn."""
    if stage.task == "write":
        return writing(stage, job, source)
    pictures = job.input("examples").kind == "images"
    return classification_of_pictures(stage, job, source) if pictures else classification(stage, job, source)


def at_every_size(adapter: Adapter, assignment: Assignment) -> dict[str, Any]:
    """The scores at each size that the adapter can be used at, where there are several."""
    found = {}
    for name, choose in adapter.variants().items():
        choose()
        found[name] = assignment.scored(anatomy.of(assignment.model))
    return {"variants": found} if found else {}


def classification(stage: AdaptStage, job: Job, source: Artefact) -> Assignment:
    """The labels of texts, with transformers' classifier of the model's family."""
    examples = Examples.open(job.input("examples").folder)
    tokenizer = ready_tokenizer(models.load_tokenizer(source.folder))
    model = classifier_for(source.folder, examples.labels, tokenizer, seed=job.seed)
    ready_tokenizer(tokenizer, model)
    train, choice, told = (
        encode(examples.side(side), examples.labels, tokenizer, stage.seq_length)
        for side in ("train", "validation", examples.held_out())
    )
    if stage.sweep is not None and not len(choice):
        raise ConfigError("a sweep needs held-out examples", do="set `validation` of the examples above 0")

    def scored(body: Anatomy) -> dict[str, Any]:
        scores = score(body, held_out_batches(told), dtype=training_dtype("auto"))
        return {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1, "scores": scores.to_dict(), **task}

    task = {"task": "classify", "labels": list(examples.labels)}
    return Assignment(
        model,
        tokenizer,
        Classify(),
        ExampleStream(train, batch_size=stage.batch_size, seed=job.seed, world_size=world_size()),
        held_out_batches(choice),
        head=head_of(model),
        steps=None if stage.epochs is None else stage.steps_of(len(train)),
        scored=scored,
    )


def classification_of_pictures(stage: AdaptStage, job: Job, source: Artefact) -> Assignment:
    """The labels of pictures, with transformers' classifier of the model's family."""
    images = ImageFolder.open(job.input("examples").folder)
    if len(images.labels) < 2:
        raise DataError(
            "there are too few labels", where=str(images.folder), needs="at least 2", found=str(images.labels)
        )
    material, model = Pictures(images), picture_classifier_for(source.folder, images.labels, seed=job.seed)
    told = ImageBatches(images.side(images.held_out()), batch_size=64)

    def scored(body: Anatomy) -> dict[str, Any]:
        scores = score_pictures(body, told, dtype=training_dtype("auto"))
        return {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1, "scores": scores.to_dict(), **task}

    task = {"task": "classify", "labels": list(images.labels)}
    return Assignment(
        model,
        material.preparer(model),
        ClassifyPictures(),
        material.stream(stage, job.seed, []),
        material.held_out(stage, 1),
        head=head_of(model),
        steps=None if stage.epochs is None else stage.steps_of(images.facts["train"]),
        scored=scored,
    )


def writing(stage: AdaptStage, job: Job, source: Artefact) -> Assignment:
    """The tokens of a corpus, by the stage's objective."""
    tokens = Tokens.open(job.input("data").folder)
    text, model = Text(tokens), models.load(source.folder)
    text.require(model)
    plain = stage.objective.model_dump(mode="json")
    return Assignment(
        model,
        text.tokenizer,
        stage.objective.build(text.tokenizer),  # type: ignore[attr-defined]
        text.stream(stage, job.seed, []),
        text.held_out(stage, stage.seq_length),
        token_bytes=text.token_bytes,
        steps=None if stage.epochs is None else stage.steps_of(tokens.train.count // stage.seq_length),
        scored=lambda body: {"task": "write", "objective": plain},
    )
