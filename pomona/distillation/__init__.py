"""Distillation: lessons, objectives in which a frozen teacher says what a student is to learn."""

from __future__ import annotations

from pomona.distillation.kd import KdConfig, soft_loss
from pomona.distillation.lesson import DistillationConfig, Lesson
from pomona.distillation.minilm import MinilmConfig, relation_loss
from pomona.distillation.teacher import Teacher
from pomona.distillation.teacher_intervention import TeacherInterventionConfig

__all__ = [
    "DistillationConfig",
    "KdConfig",
    "Lesson",
    "MinilmConfig",
    "Teacher",
    "TeacherInterventionConfig",
    "relation_loss",
    "soft_loss",
]
