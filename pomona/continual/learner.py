"""What learns in sessions: it is shown the texts of some classes once, and asked about all classes so far."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from pomona.tasks.stream import Encoded


@dataclass(frozen=True)
class Session:
    """The classes that come at one time, and their texts, which are not shown again.

    Attributes:
        texts: the training texts of each class.
    """

    texts: Mapping[str, Encoded]

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order in which they were given."""
        return tuple(self.texts)

    def together(self) -> Encoded:
        """All texts in one, their labels numbered as in `labels`."""
        parts = list(self.texts.values())
        rows = [row.tolist() for part in parts for row in part.rows]
        numbers = [number for number, part in enumerate(parts) for _ in part.rows]
        return Encoded(rows, numbers, parts[0].pad_token_id, max(part.seq_length for part in parts))


Adapt = Callable[[Session], PreTrainedModel]
"""A copy of the model that has been trained on a session: how is the caller's to say, the model itself stays."""


class Learner(ABC):
    """A classifier whose classes grow in number."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The classes that have been seen; no other is ever answered."""

    @abstractmethod
    def learn(self, session: Session) -> None:
        """See the texts of some classes. Of them, only what the method makes of them may be kept."""

    @abstractmethod
    def predict(self, texts: Encoded) -> list[str]:
        """The class of each text, among all that have been seen, without being told the session.

        Raises `ConfigError` before the first session.
        """

    @abstractmethod
    def state(self) -> Mapping[str, Tensor]:
        """What has been kept of the sessions, beside models."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what has been kept, `state` with its labels, into a folder that is there."""

    def adapted(self) -> PreTrainedModel | None:
        """The model that it has trained for itself, where it has."""
        return None
