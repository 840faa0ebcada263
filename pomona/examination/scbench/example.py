"""What a shared context and its questions are, and how answers are scored."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

Group = Literal["string", "semantic", "global", "multi"]
Score = Literal["contains", "choice", "rouge", "code"]


@dataclass(frozen=True)
class Turn:
    """One question.

    Attributes:
        input: what is asked. answer: what is right.
        score: how answers are judged: they contain it, name the option, share its words in order (ROUGE-L), or are
            the same code.
    """

    input: str
    answer: str
    score: Score = "contains"


@dataclass(frozen=True)
class Example:
    """One context with its questions, none of which depends on the answer to another."""

    id: str
    task: str
    group: Group
    context: str
    turns: tuple[Turn, ...]


def score(turn: Turn, found: str) -> float:
    """In [0, 1].

    Example:
        >>> score(Turn("?", "ab12"), "it is ab12."), score(Turn("?", "a b c d", "rouge"), "a x c d")
        (1.0, 0.75)
    """
    if turn.score == "contains":
        return float(turn.answer.lower() in found.lower())
    if turn.score == "choice":
        return float(found.strip()[:1].upper() == turn.answer)
    if turn.score == "rouge":
        return rouge_l(found, turn.answer)
    return float(difflib.SequenceMatcher(None, found.strip(), turn.answer.strip(), autojunk=False).ratio() > 0.8)


def rouge_l(found: str, right: str) -> float:
    """F1 of the longest common subsequence of words."""
    one, other = found.lower().split(), right.lower().split()
    lengths = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for place, against in enumerate(other, start=1):
            before, lengths[place] = (
                lengths[place],
                before + 1 if word == against else max(lengths[place], lengths[place - 1]),
            )
    return 2 * lengths[-1] / (len(one) + len(other)) if lengths[-1] else 0.0
