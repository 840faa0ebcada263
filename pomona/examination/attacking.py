"""What every attack offers: a victim that is asked and counted, a budget, and a report of what was changed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pomona.ground.config import MethodConfig

if TYPE_CHECKING:
    from pomona.tasks import Examples

Classify = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""Texts -> the probability of every class of each."""


Texts = Sequence[tuple[str, int]]
"""(text, label) pairs."""


class OutOfQueries(Exception):
    """The budget of one text is spent."""


class Victim:
    """A classifier that can only be asked.

    Args:
        classify: what answers.
        budget: texts that may be asked about since the last `begin`; None: any number.
    """

    def __init__(self, classify: Classify, budget: int | None = None) -> None:
        self._classify, self.budget = classify, budget
        self.queries = 0
        self._since = 0

    def begin(self) -> None:
        """The budget counts from here."""
        self._since = 0

    def ask(self, texts: Sequence[str]) -> list[list[float]]:
        """Probabilities of every text. Raises `OutOfQueries` when the budget allows no more of them."""
        if self.budget is not None:
            left = self.budget - self._since
            if left <= 0:
                raise OutOfQueries
            texts = texts[:left]
        self.queries += len(texts)
        self._since += len(texts)
        return [list(row) for row in self._classify(texts)]

    @property
    def spent(self) -> int:
        """Texts asked about since `begin`."""
        return self._since


@dataclass(frozen=True)
class Attempt:
    """What became of one text.

    Attributes:
        text, label: as they were. adversarial: the changed text; None where the label was not turned.
        changes: what was replaced by what. places: names that could have been.
        queries: to the victim.
    """

    text: str
    label: int
    adversarial: str | None
    changes: Mapping[str, str] = field(default_factory=dict)
    places: int = 0
    queries: int = 0


@dataclass(frozen=True)
class AttackReport:
    """What an attack achieved.

    Attributes:
        method: slug. config: its parameters.
        attempts: one for each text that the victim classified rightly and that has something to change.
        numbers: what cards and tables compare.
        seconds: of everything.
    """

    method: str
    config: Mapping[str, Any]
    attempts: tuple[Attempt, ...]
    numbers: Mapping[str, float]
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


class Fluency(Protocol):
    """Says what words fit where, and how natural a text is."""

    def candidates(self, text: str, places: Sequence[tuple[int, int]], most: int) -> list[str]:
        """Words that fit the given stretches of characters, the best first."""

    def strangeness(self, text: str) -> float:
        """Pseudo-perplexity of a text."""


class AttackConfig(MethodConfig):
    """The parameters of one attack. It changes no model."""

    @abstractmethod
    def attack(self, victim: Victim, fluency: Fluency, texts: Texts, *, seed: int = 0) -> AttackReport:
        """Try to turn the labels of (text, label) pairs. Texts that the victim gets wrong are passed over."""

    def attack_folders(
        self, victim: Path, generator: Path, examples: Examples, *, texts: int, seed: int = 0
    ) -> AttackReport:
        """The same on the held-out side of examples, with a classifier and a masked model in folders."""
        from pomona.examination.victims import classify_with, fluency_of

        told = examples.side(examples.held_out())[:texts]
        pairs = [(example.text, examples.number(example.label)) for example in told]
        return self.attack(Victim(classify_with(victim), self.budget), fluency_of(generator), pairs, seed=seed)

    @property
    @abstractmethod
    def budget(self) -> int | None:
        """Queries that each text may cost."""
