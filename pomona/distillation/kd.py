"""Knowledge distillation: the student predicts what the teacher predicts, target by target.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, Sec. 2.
Implements: loss = T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)) + ce_weight * (-log p_student(label)), both
    over the targets of the task (every token, the hidden ones, the class of a text).
Deviations: no labels by default, and the teacher's own temperature.
Use when: a teacher with the student's tokenizer is at hand. Cost: a forward pass of the teacher for each batch.
Relations: with a teacher that puts everything on the label it is the task itself; `well-read-students` is this at
    temperature 1 without labels; `minilm` copies relations inside instead of predictions, so that heads play no part.
Limits: equal vocabularies, or equal classes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat

from pomona.anatomy import Anatomy
from pomona.distillation.lesson import DistillationConfig, require_same_outputs
from pomona.distillation.predictions import Predictions
from pomona.distillation.teacher import Teacher
from pomona.engine.protocols import Objective


class KdConfig(DistillationConfig):
    """Predict what the teacher predicts."""

    method: Literal["kd"] = "kd"
    temperature: float = Field(default=1.0, gt=0.0)
    """Divides the logits of both models: the higher, the more the unlikely tokens matter."""
    ce_weight: NonNegativeFloat = 0.0
    """Weight of the loss against the labels, beside 1 for the teacher's."""

    def check(self, student: Anatomy, teacher: Anatomy) -> None:
        """Both must predict the same tokens, or classes."""
        require_same_outputs(self.method, student, teacher)

    def build(self, teacher: Teacher, task: Objective) -> Kd:
        """The lesson."""
        return Kd(self, teacher, task, temperature=self.temperature, ce_weight=self.ce_weight)


class Kd(Predictions):
    """See the card of this module."""
