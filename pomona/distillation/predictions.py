"""Learning from predictions: what the methods share whose teacher says how likely each outcome is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pomona.anatomy import Anatomy
from pomona.distillation.lesson import DistillationConfig, Lesson
from pomona.distillation.teacher import Teacher
from pomona.engine.head_loss import CHUNK_ELEMENTS
from pomona.engine.protocols import IGNORED, Batch, Loss, Objective, PredictingObjective


def soft_loss(student_NV: Tensor, teacher_NV: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, summed over the rows.

    Args:
        student_NV: logits, any float dtype; computed in float32.
        teacher_NV: logits over the same outcomes; no gradient flows into it.
        temperature: > 0; 1 leaves the distributions as they are.
    Returns:
        Scalar float32, nats; 0 exactly where both are equal.
    Example:
        >>> float(soft_loss(torch.zeros(1, 2), torch.tensor([[50.0, 0.0]])))  # log 2
        0.6931471824645996
    """
    student = torch.log_softmax(student_NV.float() / temperature, -1)
    teacher = torch.log_softmax(teacher_NV.detach().float() / temperature, -1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="sum", log_target=True)


class Predictions(Lesson):
    """T^2 KL(teacher || student) + ce_weight * (-log p_student(label)), summed over the targets.

    Where the task reads logits off hidden states, those of many targets never exist at once.

    Args:
        temperature: divides the logits of both models.
        ce_weight: of the loss against the labels.
    """

    def __init__(
        self, config: DistillationConfig, teacher: Teacher, task: Objective, *, temperature: float, ce_weight: float
    ) -> None:
        super().__init__(config, teacher, task)
        self.temperature, self.ce_weight = temperature, ce_weight

    def ask(self, teacher: Anatomy, batch: Batch) -> Tensor:
        """The teacher's logits at every target, or what its head reads there."""
        return self._at_targets(teacher, batch)

    def everything(self, batch: Batch) -> Any:
        """Its logits too."""
        said = self.answers(batch)
        if isinstance(self.task, PredictingObjective):
            return said
        with torch.no_grad():
            return self.teacher.body.logits(said)

    def learn(self, body: Anatomy, batch: Batch, said: Tensor) -> Loss:
        """Nats summed over the targets."""
        labels = batch["labels"]
        labels, seen = labels[labels != IGNORED], self._at_targets(body, batch)
        rows = max(1, CHUNK_ELEMENTS // max(body.vocab_size, 1))
        soft, hard, correct = seen.new_zeros((3,), dtype=torch.float32).unbind()
        for start in range(0, max(len(labels), 1), rows):
            part = slice(start, start + rows)
            given = (seen[part], said[part], labels[part])
            if len(labels) > rows:  # logits are made again on the way back, so that they never exist all at once
                made = checkpoint(self._part, body, *given, use_reentrant=False)
            else:
                made = self._part(body, *given)
            soft, hard, correct = soft + made[0], hard + made[1], correct + made[2]
        total = soft + self.ce_weight * hard if self.ce_weight else soft
        parts = {"teacher": soft.detach(), "labels": hard.detach()}
        return Loss(total, torch.tensor(len(labels)), correct.long(), parts)

    def _at_targets(self, body: Anatomy, batch: Batch) -> Tensor:
        """Logits of a task that predicts by itself, hidden states of another."""
        if isinstance(self.task, PredictingObjective):
            return self.task.logits(body, batch)
        hidden: Tensor = body.hidden(**self.task.inputs(body, batch))
        return hidden[batch["labels"] != IGNORED]

    def _part(self, body: Anatomy, seen: Tensor, taught: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss against the teacher and against the labels, and hits, of some targets."""
        if isinstance(self.task, PredictingObjective):
            student, teacher = seen, taught
        else:
            student = body.logits(seen)
            with torch.no_grad():
                teacher = self.teacher.body.logits(taught)
        soft = soft_loss(student, teacher, temperature=self.temperature)
        with torch.set_grad_enabled(bool(self.ce_weight) and torch.is_grad_enabled()):
            hard = functional.cross_entropy(student.float(), labels, reduction="sum")
        return soft, hard, (student.argmax(-1) == labels).sum()
