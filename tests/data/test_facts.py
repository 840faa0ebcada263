"""Planted facts: each is asked for once, the answers are found again, and nothing can be learnt by heart."""

from __future__ import annotations

from collections import Counter

from pomona.data import SourceConfig, read_source
from pomona.data.facts import FACTS, FILLER, VALUES, plant, questions

TEXT = " ".join(f"word{number}" for number in range(3 * FILLER + 1))


def test_by_hand() -> None:
    """Catches an answer that differs from the fact, a depth that counts from the wrong end, and lost words."""
    pieces = list(plant(TEXT))
    assert len(pieces) == 3 and " ".join(pieces).count("word") == 3 * FILLER
    for piece in pieces:
        asked = questions(piece)
        assert len(asked) == FACTS and sorted(each.depth for each in asked) == [0.25, 0.5, 0.75, 1.0]
        for each in asked:
            assert piece[each.start :].startswith(f"{each.answer}.")
            key = piece[: each.start].rsplit(" ", 1)[1]
            assert piece.index(f"Note: {key}{each.answer}.") < piece.index("Recall:")
        first = next(each for each in asked if each.depth == 1.0)
        assert piece.startswith("Note: ") and piece.split()[2] == f"{first.answer.strip()}."


def test_the_same_text_gives_the_same_facts() -> None:
    """Catches a corpus that changes from run to run, and values that a model could learn by heart."""
    assert list(plant(TEXT)) == list(plant(TEXT)) != list(plant(f"{TEXT} more"))
    answers = Counter(
        each.answer for number in range(300) for piece in plant(f"{number} {TEXT}") for each in questions(piece)
    )
    assert len(answers) == len(VALUES) and max(answers.values()) < 2 * min(answers.values())
    assert questions("Note: nothing is asked here.") == [] == list(plant("too short"))


def test_as_a_source() -> None:
    """Catches an embedded corpus that does not know the name."""
    documents = list(read_source(SourceConfig(path="env:facts", include=("json/*",))))
    assert documents and all(questions(each.text) and each.metadata["source"] == "env:facts" for each in documents)
