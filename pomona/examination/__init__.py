"""Examine models and report what every step bought: quality, size, samples, plots, report, model card."""

from __future__ import annotations

from pomona.examination.records import Arm, Examination, ModelRow, ReportData, Sample, StageRecord

__all__ = ["Arm", "Examination", "ModelRow", "ReportData", "Sample", "StageRecord"]
