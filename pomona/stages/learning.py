"""Carry out `learn`: sessions made of examples one by one, a learner, and an adapted copy of the model if it asks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pomona import anatomy
from pomona.continual import Learner, Session, course, division, session_of
from pomona.engine import FitConfig, Ledger, fit
from pomona.ground.console import say
from pomona.ground.files import write_json
from pomona.ground.ranks import world_size
from pomona.stages import models
from pomona.stages.base import Job, Made
from pomona.stages.learn import LearnStage
from pomona.tasks import Classify, Examples, ExampleStream
from pomona.tasks.classifier import from_base, head_of, ready_tokenizer
from pomona.tasks.stream import Encoded

ADAPTED = "adapted"


def learn(stage: LearnStage, job: Job) -> Made:
    """Let the stage's method see the examples in sessions, and write what it keeps into the job's folder."""
    source = job.input("from")
    examples = Examples.open(job.input("examples").folder)
    model = models.load(source.folder)
    tokenizer = ready_tokenizer(models.load_tokenizer(source.folder), model)
    ledger = Ledger()

    def adapt(session: Session) -> PreTrainedModel:
        return adapted(stage, model, tokenizer, session, ledger, seed=job.seed, work=job.work, title=job.name)

    learner: Learner = stage.method.learner(model, adapt, seed=job.seed)  # type: ignore[attr-defined]
    train = examples.side("train")
    groups = division(examples.labels, stage.in_first, stage.classes, seed=job.seed)
    sessions = (session_of(labels, train, tokenizer, stage.seq_length) for labels in groups)
    held_out = session_of(examples.labels, examples.side(examples.held_out()), tokenizer, stage.seq_length).texts
    start, before = time.perf_counter(), ledger.seconds
    found = course(learner, sessions, held_out)
    spent = time.perf_counter() - start - (ledger.seconds - before)
    if not job.main:
        return Made()
    own = learner.adapted()
    trained = session_of(examples.labels, train, tokenizer, stage.seq_length).texts
    tokens = tokens_of(trained) + tokens_of(held_out)
    per_token = anatomy.of(model).flops_per_token(stage.seq_length, training=False)
    ledger.charge("features", flops=(2 if own else 1) * tokens * per_token, seconds=spent, tokens=tokens)
    learner.save(job.folder)
    write_json(job.folder / "sessions.json", found.to_dict())
    if own is not None:
        (job.folder / ADAPTED).mkdir()
        models.save(own.base_model, tokenizer, job.folder / ADAPTED)
    say(f"  {job.name}: accuracy {found.last:.1%} in the end, {found.average:.1%} on average over the sessions")
    state = learner.state().values()
    told = found.to_dict()
    facts: dict[str, Any] = {key: value for key, value in told.items() if key != "of_classes"} | {
        "accuracy": found.last,
        "state_bytes": sum(tensor.numel() * tensor.element_size() for tensor in state),
        "note": f"{stage.method.method}, {len(groups)} sessions, {len(examples.labels)} classes",
    }
    return Made(facts, ledger)


def adapted(
    stage: LearnStage,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    session: Session,
    ledger: Ledger,
    *,
    seed: int,
    work: Path,
    title: str,
) -> PreTrainedModel:
    """A copy of the model, adapted to the labels of a session and merged; what it cost goes to the ledger."""
    copy = from_base(model, session.labels, tokenizer, seed=seed)
    adapter = stage.adapter.attach_(anatomy.of(copy), head=head_of(copy), seed=seed)  # type: ignore[attr-defined]
    body, texts = anatomy.of(copy), session.together()
    size = min(stage.batch_size, len(texts))
    steps = max(1, round(stage.epochs * len(texts) / size))
    stream = ExampleStream(texts, batch_size=size, seed=seed, world_size=world_size())
    objective, taught = adapter.taught(Classify(), stream, seed)
    assert isinstance(stage.engine, FitConfig)
    training = fit(
        copy,
        objective,
        taught,
        stage.optimizer.build(body, total_steps=steps),  # type: ignore[attr-defined]
        stage.schedule.build(steps),  # type: ignore[attr-defined]
        steps=steps,
        config=stage.engine.model_copy(update={"seed": seed}),
        folder=work / "fit",
        title=title,
    )
    adapter.merge_()
    ledger.merge(training.ledger)
    ledger.charge("attach", flops=adapter.cost[0], seconds=adapter.cost[1])
    return copy


def tokens_of(texts: Mapping[str, Encoded]) -> int:
    """Tokens of the texts of all classes."""
    return sum(len(row) for each in texts.values() for row in each.rows)
