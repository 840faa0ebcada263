"""Distillation: lessons, objectives in which a frozen teacher says what a student is to learn."""

from __future__ import annotations

from pomona.distillation.kd import KdConfig, soft_loss
from pomona.distillation.lesson import DistillationConfig, Lesson
from pomona.distillation.teacher import Teacher

__all__ = ["DistillationConfig", "KdConfig", "Lesson", "Teacher", "soft_loss"]
