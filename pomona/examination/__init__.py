"""Examine models and report what every step bought: quality, size, samples, plots, report, model card."""

from __future__ import annotations

from pomona.examination.card import CardData, card_text, write_card
from pomona.examination.comparison import Comparison, compare
from pomona.examination.loading import load_tokenizer
from pomona.examination.quality import batches_by, examine
from pomona.examination.records import Arm, Examination, ModelRow, ReportData, Sample, StageRecord
from pomona.examination.report import report_html, write_report
from pomona.examination.samples import GREEDY, Generate, Sampling, continue_prompts, prompts_from, writer, writer_of
from pomona.examination.size import Size, size_of
from pomona.examination.summary import print_summary, summary

__all__ = [
    "GREEDY",
    "Arm",
    "CardData",
    "Comparison",
    "Examination",
    "Generate",
    "ModelRow",
    "ReportData",
    "Sample",
    "Sampling",
    "Size",
    "StageRecord",
    "batches_by",
    "card_text",
    "compare",
    "continue_prompts",
    "examine",
    "load_tokenizer",
    "print_summary",
    "prompts_from",
    "report_html",
    "size_of",
    "summary",
    "write_card",
    "write_report",
    "writer",
    "writer_of",
]
