"""Distillation: lessons, objectives in which a frozen teacher says what a student is to learn."""

from __future__ import annotations

from pomona.distillation.kd import KdConfig
from pomona.distillation.lesson import DistillationConfig, Lesson
from pomona.distillation.minilm import MinilmConfig, relation_loss
from pomona.distillation.predictions import soft_loss
from pomona.distillation.teacher import Teacher
from pomona.distillation.teacher_intervention import TeacherInterventionConfig
from pomona.distillation.well_read_students import WellReadStudentsConfig, compact

__all__ = [
    "DistillationConfig",
    "KdConfig",
    "Lesson",
    "MinilmConfig",
    "Teacher",
    "TeacherInterventionConfig",
    "WellReadStudentsConfig",
    "compact",
    "relation_loss",
    "soft_loss",
]
