"""SCBench: one long context, several questions, and what becomes of its cache in between."""

from __future__ import annotations

from pomona.examination.scbench.benchmark import Report, ScbenchConfig, examine
from pomona.examination.scbench.example import Example, Turn, score
from pomona.examination.scbench.modes import Answers, ask
from pomona.examination.scbench.tasks import TASKS, make

__all__ = ["TASKS", "Answers", "Example", "Report", "ScbenchConfig", "Turn", "ask", "examine", "make", "score"]
