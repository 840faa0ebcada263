"""Lesson: an objective with a teacher. A distillation method is a lesson, and what the student must be for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pomona.anatomy import Anatomy
from pomona.distillation.teacher import Teacher
from pomona.engine.protocols import IGNORED, Batch, Loss, Objective, PredictingObjective, ReadingObjective
from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError, UnsupportedModel


class DistillationConfig(MethodConfig):
    """The parameters of one distillation method."""

    copies_teacher: ClassVar[bool] = False
    """Whether the student begins as a copy of the teacher where no other is given."""
    looks_inside: ClassVar[bool] = False
    """Whether it taps the forward pass, whose blocks must not be compiled then."""

    exactly: ClassVar[Mapping[str, Any]] = {}
    """Parameters with which a student that is a copy of the teacher has nothing left to learn."""
    rows_are_independent: ClassVar[bool] = True
    """Whether the loss of a batch is the sum of those of its rows."""

    @abstractmethod
    def check(self, student: Anatomy, teacher: Anatomy) -> None:
        """Raise `ConfigError` or `UnsupportedModel` unless one can teach the other. Looks at structure alone."""

    @abstractmethod
    def build(self, teacher: Teacher, task: Objective) -> Lesson:
        """The lesson.

        Args:
            teacher: whom to ask.
            task: the objective that makes inputs and targets,.
        """


class Lesson(ABC):
    """An objective whose loss compares a student with what a teacher says of the same batch.

    Fulfils `engine.protocols.Objective`; the engine trains the student alone. A batch may carry `step` (B,), the number
    of the training step, for lessons that change as they go.

    Args:
        config: the method's parameters.
        teacher: whom to ask.
        task: makes inputs and targets; so that the teacher reads what the student reads.
    """

    is_likelihood = False

    def __init__(self, config: DistillationConfig, teacher: Teacher, task: Objective) -> None:
        if not isinstance(task, ReadingObjective):
            raise ConfigError(
                f"{config.method} cannot teach {getattr(task, 'name', type(task).__name__)}",
                needs="an objective that runs the model once on inputs which the teacher can read too",
                found="one without `inputs`",
                do="choose next-token, masked-lm or span-corruption, or a task",
            )
        self.config, self.teacher, self.task = config, teacher, task
        self.name: str = config.method

    def judge(self, scoring: Objective) -> Objective:
        """What held-out text is scored by, given what models trained for the task are scored by."""
        return scoring

    @property
    def identity(self) -> dict[str, Any]:
        """What a run that is resumed must find again."""
        return {**self.config.model_dump(mode="json"), "teacher": self.teacher.hash}

    def check(self, body: Anatomy) -> None:
        """Raise unless the student can be trained, and be taught by this teacher."""
        if body.model is self.teacher.body.model:
            raise ConfigError(f"{self.name}: a model cannot teach itself", do="give the student a copy")
        self.task.check(body)
        self.config.check(body, self.teacher.body)

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The task's inputs and targets, and the step."""
        made = self.task.prepare(batch, generator)
        return {**made, "step": batch["step"]} if "step" in batch else made

    @abstractmethod
    def ask(self, teacher: Anatomy, batch: Batch) -> Any:
        """What the teacher says of a prepared micro-batch; called without gradients."""

    @abstractmethod
    def learn(self, body: Anatomy, batch: Batch, said: Any) -> Loss:
        """The loss of the student, summed over the counted targets, given what the teacher said."""

    def predictions(self, body: Anatomy, batch: Batch) -> Tensor:
        """(targets, outputs) logits of a model, run once."""
        if isinstance(self.task, PredictingObjective):
            return self.task.logits(body, batch)
        hidden: Tensor = body.hidden(**self.task.inputs(body, batch))
        return body.logits(hidden[batch["labels"] != IGNORED])

    def answers(self, batch: Batch) -> Any:
        """`ask`, wherever the batch is."""
        with self.teacher.speaking(batch["input_ids"].device) as teacher:
            return self.ask(teacher, batch)

    def everything(self, batch: Batch) -> Any:
        """All that the teacher computes for a batch, so that its cost can be counted."""
        return self.answers(batch)

    def teacher_flops(self, batch: Batch) -> float:
        """FLOPs of the teacher per sequence of a prepared micro-batch, counted from what runs for the first one."""
        device = next(self.teacher.body.model.parameters()).device
        counter = FlopCounterMode(display=False)
        with counter:
            self.everything({name: tensor[:1].to(device) for name, tensor in batch.items()})
        return float(counter.get_total_flops())

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        """See `learn`."""
        self.check(body)
        return self.learn(body, batch, self.answers(batch))

    def restarts(self, steps: int) -> tuple[int, ...]:
        """Steps before which optimizer and schedule begin anew, in a run of `steps` steps."""
        return ()

    def finish_(self, body: Anatomy) -> dict[str, Any]:
        """Bring a trained student into its final form; returns facts about it (plain values)."""
        return {}


def require_same_outputs(method: str, student: Anatomy, teacher: Anatomy) -> None:
    """Refuse models whose logits are about other tokens or classes, or that make none."""
    own, its = (0 if body.head is None else body.head.shape[0] for body in (student, teacher))
    if own != its or not own:
        raise UnsupportedModel(
            f"{method} cannot compare predictions about different things",
            needs=f"the teacher's {its} outputs",
            found=f"a student with {own}",
            do="give the student the teacher's tokenizer and vocab_size, or its labels",
        )
