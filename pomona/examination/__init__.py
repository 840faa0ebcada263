"""Examine models and report what every step bought: quality, size, samples, plots, report, model card."""

from __future__ import annotations

from pomona.examination.comparison import Comparison, compare
from pomona.examination.records import Arm, Examination, ModelRow, ReportData, Sample, StageRecord
from pomona.examination.report import report_html, write_report

__all__ = [
    "Arm",
    "Comparison",
    "Examination",
    "ModelRow",
    "ReportData",
    "Sample",
    "StageRecord",
    "compare",
    "report_html",
    "write_report",
]
