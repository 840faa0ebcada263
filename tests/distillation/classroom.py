"""Teachers, students and text for the tests of distillation: tiny, and of every family that the tests know."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.distillation import DistillationConfig, Lesson, Teacher
from pomona.engine import Batch, FitConfig, Objective, Training, fit
from pomona.objectives.masked_lm import MaskedLmConfig
from pomona.objectives.next_token import NextTokenConfig
from pomona.objectives.span_corruption import SpanCorruptionConfig
from tests.objectives.test_conformance import tokenizer
from tests.tiny import FAMILIES, VOCABULARY

TASKS: dict[str, Callable[[], Objective]] = {
    "llama": lambda: NextTokenConfig().build(),
    "gpt2": lambda: NextTokenConfig().build(),
    "bert": lambda: MaskedLmConfig().build(tokenizer()),
    "t5": lambda: SpanCorruptionConfig().build(tokenizer()),
}


class Numbers:
    """Random tokens, a pure function of the step."""

    def __init__(self, rows: int = 4, length: int = 24) -> None:
        self.shape = (rows, length + 1)

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        generator = torch.Generator().manual_seed(100 + step)
        tokens = torch.randint(16, VOCABULARY, self.shape, generator=generator)
        batch = {"tokens": tokens, "step": torch.full((len(tokens),), step)}
        cut = {name: tensor.chunk(micro_batches) for name, tensor in batch.items()}
        return [{name: parts[index] for name, parts in cut.items()} for index in range(len(cut["tokens"]))]


def stirred(model: Any, seed: int = 0, scale: float = 0.02) -> Any:
    """A copy whose parameters are moved at random: what they were made with leaves attention nearly even."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model


def teacher_of(family: str, **changes: Any) -> Teacher:
    return Teacher(stirred(FAMILIES[family](**changes), seed=1, scale=0.1))


def lesson_of(config: DistillationConfig, family: str, teacher: Teacher | None = None) -> Lesson:
    return config.build(teacher or teacher_of(family), TASKS[family]())


def prepared(lesson: Lesson, step: int = 0, rows: int = 4) -> Batch:
    (raw,) = Numbers(rows).batch(step)
    return lesson.prepare(raw, torch.Generator().manual_seed(step))


def copy_of(teacher: Teacher) -> Anatomy:
    """A student with the teacher's weights, in evaluation mode."""
    return anatomy.of(copy.deepcopy(teacher.body.model).eval().requires_grad_(True))


def trained(lesson: Lesson, model: Any, *, steps: int = 6, folder: Path | None = None, stream: Any = None) -> Training:
    """A run of the engine in float32."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    config = FitConfig(compile="never", precision="fp32", log_every=1, clip=None)
    validation = [{"tokens": batch["tokens"]} for batch in Numbers().batch(1000)]
    return fit(
        model, lesson, stream or Numbers(), optimizer, lambda step: 1.0,
        steps=steps, config=config, folder=folder, validation=validation,
        scoring=lesson.judge(lesson.task), restarts=lesson.restarts(steps),
    )  # fmt: skip
