"""Text with facts planted in it and asked for at its end: what a model can know from its context alone.

    Note: bax tol. some words.
    Note: mer gis. some more.
    Recall: mer gis. Recall: bax tol.

Keys and values are syllables that are drawn anew for every text, so nothing can be learnt by heart. `questions` finds
the answers again, for a model to be asked.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

FACTS = 4
"""Planted in a text, at even depths."""
FILLER = 4
"""Words of the text around them."""
SYLLABLES = tuple("".join(letters) for letters in product("bdfgklmnprstvz", "aeiou", "lmnprstx"))
KEYS, VALUES = SYLLABLES[::31][:16], SYLLABLES[15::31][:16]
_NOTED = re.compile(r"Note: (\w+) \w+\.")
_ASKED = re.compile(r"Recall: (\w+)( \w+)\.")


@dataclass(frozen=True)
class Question:
    """Where a text asks for a fact.

    Attributes:
        start: place of the answer in the text, in characters; what stands before it is the prompt.
        answer: the value, with the space before it.
        depth: share of the facts that were planted at this one or later, in (0, 1]; 1 is the first of the text.
    """

    start: int
    answer: str
    depth: float


def plant(text: str) -> Iterator[str]:
    """Pieces of a text, each with facts in it and questions after it. The same text gives the same facts."""
    words, draw = text.split(), random.Random(text)
    for start in range(0, len(words) - FILLER + 1, FILLER):
        keys, values = draw.sample(KEYS, FACTS), draw.choices(VALUES, k=FACTS)
        lines = []
        for number, (key, value) in enumerate(zip(keys, values, strict=True)):
            first, last = (start + each * FILLER // FACTS for each in (number, number + 1))
            lines.append(f"Note: {key} {value}. {' '.join(words[first:last])}.")
        asked = [f"Recall: {keys[number]} {values[number]}." for number in draw.sample(range(FACTS), FACTS)]
        yield "\n".join([*lines, " ".join(asked)]) + "\n"


def questions(text: str) -> list[Question]:
    """The questions of a text that `plant` made, in their order."""
    planted = {key: number for number, key in enumerate(_NOTED.findall(text))}
    return [
        Question(match.start(2), match[2], 1 - planted[match[1]] / FACTS)
        for match in _ASKED.finditer(text)
        if match[1] in planted
    ]
