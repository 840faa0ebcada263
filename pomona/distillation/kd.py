"""Knowledge distillation: the student predicts what the teacher predicts, token by token.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, Sec. 2.
Implements: loss = T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)) + ce_weight * (-log p_student(label)), both
    over the targets of the task (every token, the hidden ones, the class of a text).
Deviations: no labels by default, and the teacher's own temperature.
Use when: a teacher with the student's tokenizer is at hand. Cost: a forward pass of the teacher for each batch.
Relations: with a teacher that puts everything on the label it is the task itself; `minilm` copies relations inside
    instead of predictions, so that vocabularies and heads play no part.
Limits: equal vocabularies. The logits of both models exist for a part of the targets at a time.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pomona.anatomy import Anatomy
from pomona.distillation.lesson import DistillationConfig, Lesson, require_same_outputs
from pomona.distillation.teacher import Teacher
from pomona.engine.head_loss import CHUNK_ELEMENTS
from pomona.engine.protocols import IGNORED, Batch, Loss, Objective


class KdConfig(DistillationConfig):
    """Predict what the teacher predicts."""

    method: Literal["kd"] = "kd"
    temperature: float = Field(default=1.0, gt=0.0)
    """Divides the logits of both models: the higher, the more the unlikely tokens matter."""
    ce_weight: NonNegativeFloat = 0.0
    """Weight of the loss against the labels, beside 1 for the teacher's."""

    def check(self, student: Anatomy, teacher: Anatomy) -> None:
        """Both must predict the same tokens."""
        require_same_outputs(self.method, student, teacher)

    def build(self, teacher: Teacher, task: Objective) -> Kd:
        """The lesson."""
        return Kd(self, teacher, task)


def soft_loss(student_NV: Tensor, teacher_NV: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, summed over the rows.

    Args:
        student_NV: logits, any float dtype; computed in float32.
        teacher_NV: logits over the same vocabulary; no gradient flows into it.
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


class Kd(Lesson):
    """See the card of this module."""

    config: KdConfig

    def ask(self, teacher: Anatomy, batch: Batch) -> Tensor:
        """What the teacher's head reads at every target."""
        return self._at_targets(teacher, batch)

    def everything(self, batch: Batch) -> Tensor:
        """Its logits too."""
        with torch.no_grad():
            return self.teacher.body.logits(self.answers(batch))

    def learn(self, body: Anatomy, batch: Batch, said: Tensor) -> Loss:
        """Nats summed over the targets."""
        labels = batch["labels"]
        labels, hidden = labels[labels != IGNORED], self._at_targets(body, batch)
        rows = max(1, CHUNK_ELEMENTS // max(body.vocab_size, 1))
        total, soft, hard, correct = hidden.new_zeros((4,), dtype=torch.float32).unbind()
        for start in range(0, max(len(labels), 1), rows):
            part = slice(start, start + rows)
            given = (hidden[part], said[part], labels[part])
            if len(labels) > rows:  # logits are made again on the way back, so that they never exist all at once
                made = checkpoint(self._part, body, *given, use_reentrant=False)
            else:
                made = self._part(body, *given)
            soft, hard, correct = soft + made[0], hard + made[1], correct + made[2]
        total = soft + self.config.ce_weight * hard if self.config.ce_weight else soft
        parts = {"teacher": soft.detach(), "labels": hard.detach()}
        return Loss(total, torch.tensor(len(labels)), correct.long(), parts)

    def _at_targets(self, body: Anatomy, batch: Batch) -> Tensor:
        hidden: Tensor = body.hidden(**self.task.inputs(body, batch))
        return hidden[batch["labels"] != IGNORED]

    def _part(self, body: Anatomy, hidden: Tensor, taught: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss against the teacher and against the labels, and hits, of some targets."""
        student = body.logits(hidden)
        with torch.no_grad():
            teacher = self.teacher.body.logits(taught)
        soft = soft_loss(student, teacher, temperature=self.config.temperature)
        hard = functional.cross_entropy(student.float(), labels, reduction="sum")
        return soft, hard, (student.argmax(-1) == labels).sum()
