"""Class-incremental learning as it is measured: sessions of classes in an order, and the accuracy after each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from pomona.continual.learner import Learner, Session
from pomona.data.permutation import Permutation, derive_key
from pomona.ground.errors import ConfigError, DataError
from pomona.tasks.reading import Example
from pomona.tasks.stream import Encoded, encode


def division(labels: Sequence[str], first: int, each: int, *, seed: int = 0) -> tuple[tuple[str, ...], ...]:
    """The classes of every session: `first` of them, then `each` at a time, in an order drawn from `seed`.

    The last session has what is left. Raises `ConfigError` where `first` is more than all.
    """
    if first > len(labels):
        raise ConfigError(f"there are {len(labels)} classes", needs=f"at least the {first} of the first session")
    order = Permutation(len(labels), derive_key(seed, "classes"))(np.arange(len(labels)))
    shuffled = [labels[place] for place in order.tolist()]
    starts = [0, *range(first, len(labels), each)]
    ends = [*starts[1:], len(labels)]
    return tuple(tuple(shuffled[start:end]) for start, end in zip(starts, ends, strict=True))


def session_of(
    labels: Sequence[str], examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, seq_length: int
) -> Session:
    """The texts of some classes, in tokens; examples of others are left out."""
    mine: dict[str, list[Example]] = {label: [] for label in labels}
    for example in examples:
        if example.label in mine:
            mine[example.label].append(example)
    return Session({label: encode(texts, [label], tokenizer, seq_length) for label, texts in mine.items()})


@dataclass(frozen=True)
class Course:
    """What came out of some sessions.

    Attributes:
        sessions: the classes of each.
        accuracies: after each session, over the held-out texts of all classes so far.
        of_classes: after each session, the accuracy of each class so far that has held-out texts.
    """

    sessions: tuple[tuple[str, ...], ...]
    accuracies: tuple[float, ...]
    of_classes: tuple[Mapping[str, float], ...]

    @property
    def last(self) -> float:
        """The accuracy over all classes, at the end."""
        return self.accuracies[-1]

    @property
    def average(self) -> float:
        """The mean over the sessions of the accuracy after each."""
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def forgetting(self) -> float:
        """How far classes fell from their best accuracy to that at the end: the mean over all but the newest; 0 where
        there is one session."""
        end = self.of_classes[-1]
        old = [label for label in end if label not in self.sessions[-1]]
        falls = [max(then[label] for then in self.of_classes if label in then) - end[label] for label in old]
        return sum(falls) / len(falls) if falls else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "sessions": [list(labels) for labels in self.sessions],
            "accuracies": list(self.accuracies),
            "of_classes": [dict(each) for each in self.of_classes],
            "average_accuracy": self.average,
            "last_accuracy": self.last,
            "forgetting": self.forgetting,
        }


def course(learner: Learner, sessions: Iterable[Session], held_out: Mapping[str, Encoded]) -> Course:
    """Let a learner see the sessions one by one, and ask about all classes so far after each.

    Args:
        sessions: made as they are needed; the learner is given one at a time.
        held_out: texts of each class, none of them in a session.

    Raises:
        DataError: a class comes twice, or no class of a session so far has held-out texts.
    """
    seen: list[str] = []
    told, accuracies, of_classes = [], [], []
    for session in sessions:
        if twice := set(session.labels) & set(seen):
            raise DataError("a class comes in two sessions", found=", ".join(sorted(twice)))
        learner.learn(session)
        seen += session.labels
        told.append(session.labels)
        hits: dict[str, tuple[int, int]] = {}
        for label in seen:
            if label in held_out and len(held_out[label]):
                answers = learner.predict(held_out[label])
                hits[label] = (answers.count(label), len(answers))
        if not hits:
            raise DataError("nothing to score", found="no held-out text of the classes so far")
        accuracies.append(sum(right for right, _ in hits.values()) / sum(count for _, count in hits.values()))
        of_classes.append({label: right / count for label, (right, count) in hits.items()})
    return Course(tuple(told), tuple(accuracies), tuple(of_classes))
