"""Evidence: what published systems claim, put to the test, and recipes compared on a user's own data.

pomona evidence run gptq            arms against each other, seed by seed, and a verdict by a rule fixed before
pomona evidence status              which results there are, and which of them are about code that has changed
pomona compare a.yaml b.yaml --budget 10m --data my_texts/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pomona.ground.lazy import names_from

if TYPE_CHECKING:
    from pomona.evidence.card import SCALES, Arm, Card, Metric, Scale, Verdict, card_of
    from pomona.evidence.compare import Comparison, compare
    from pomona.evidence.result import Result, read_result
    from pomona.evidence.run import Standing, run_evidence, standings
    from pomona.evidence.table import Paired, Table, Trial, paired

__getattr__ = names_from(
    __name__,
    {
        "SCALES": "card",
        "Arm": "card",
        "Card": "card",
        "Comparison": "compare",
        "Metric": "card",
        "Paired": "table",
        "Result": "result",
        "Scale": "card",
        "Standing": "run",
        "Table": "table",
        "Trial": "table",
        "Verdict": "card",
        "card_of": "card",
        "compare": "compare",
        "paired": "table",
        "read_result": "result",
        "run_evidence": "run",
        "standings": "run",
    },
)

__all__ = [
    "SCALES",
    "Arm",
    "Card",
    "Comparison",
    "Metric",
    "Paired",
    "Result",
    "Scale",
    "Standing",
    "Table",
    "Trial",
    "Verdict",
    "card_of",
    "compare",
    "paired",
    "read_result",
    "run_evidence",
    "standings",
]
