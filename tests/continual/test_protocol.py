"""Sessions of classes, and the numbers of a course, by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import Tensor

from pomona.continual import Course, Learner, Session, course, division
from pomona.ground.errors import ConfigError, DataError
from pomona.tasks.stream import Encoded
from tests.continual.conftest import LABELS, orchard, sessions


class Newest(Learner):
    """Answers with the label that came last."""

    def __init__(self) -> None:
        self._labels: list[str] = []

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self._labels)

    def learn(self, session: Session) -> None:
        self._labels += session.labels

    def predict(self, texts: Encoded) -> list[str]:
        return [self._labels[-1]] * len(texts)

    def state(self) -> Mapping[str, Tensor]:
        return {}

    def save(self, folder: Path) -> None:
        """Nothing."""


def test_division() -> None:
    """Catches classes that come twice or never, and an order that the seed does not change."""
    names = [str(number) for number in range(11)]
    found = division(names, 4, 3, seed=1)
    assert [len(each) for each in found] == [4, 3, 3, 1]
    assert sorted((label for each in found for label in each), key=int) == names
    assert found == division(names, 4, 3, seed=1) != division(names, 4, 3, seed=2)
    assert [len(each) for each in division(names, 11, 3)] == [11]
    with pytest.raises(ConfigError, match="there are 11 classes"):
        division(names, 12, 3)


def test_by_hand() -> None:
    """Catches a mean over classes in place of texts, an average without the first session, and forgetting of new
    classes: one class of five is right at the end."""
    found = course(Newest(), sessions((LABELS[:2], LABELS[2:4], LABELS[4:])), orchard(shift=100))
    assert found.accuracies == (1 / 2, 1 / 4, 1 / 5)
    assert found.average == pytest.approx((1 / 2 + 1 / 4 + 1 / 5) / 3) and found.last == 1 / 5
    assert found.forgetting == 2 / 4  # two of four old classes were right once, and no longer are
    assert found.to_dict()["sessions"] == [list(LABELS[:2]), list(LABELS[2:4]), list(LABELS[4:])]
    assert Course((("a",),), (0.5,), ({"a": 0.5},)).forgetting == 0.0


def test_refusals() -> None:
    """Catches a class that is learnt twice, and an accuracy of no text."""
    with pytest.raises(DataError, match="in two sessions"):
        course(Newest(), sessions((LABELS[:2], LABELS[1:])), orchard())
    with pytest.raises(DataError, match="nothing to score"):
        course(Newest(), sessions((LABELS[:2],)), {})
