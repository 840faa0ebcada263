"""The learner that class means make: features of frozen models, one prototype for each class, the nearest one wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from pomona.continual.features import Pool, Reader
from pomona.continual.learner import Learner, Session
from pomona.continual.prototypes import Metric, Prototypes
from pomona.tasks.stream import Encoded

PROTOTYPES = "prototypes.safetensors"


class NearestMean(Learner):
    """Answers with the class whose mean feature is nearest.

    Args:
        models: whose features are read, side by side.
        metric: what near means.
        unit: features are brought to length 1 before they are averaged (the means are not).
        pool: see `features_of`.
        refine: gives a further model, at the first session, before any feature is read.
        prototypes: of earlier sessions.
    """

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        *,
        metric: Metric,
        unit: bool = False,
        pool: Pool = "mean",
        refine: Callable[[Session], PreTrainedModel] | None = None,
        prototypes: Prototypes | None = None,
    ) -> None:
        self.metric, self.reader = metric, Reader(models, pool, unit=unit)
        self.prototypes = prototypes or Prototypes()
        self._refine = refine
        self._refined: PreTrainedModel | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return self.prototypes.labels

    def learn(self, session: Session) -> None:
        if self._refine is not None and self._refined is None:
            self._refined = self._refine(session).eval()
            self.reader.models.append(self._refined)
        for label, texts in session.texts.items():
            self.prototypes.add_(label, self.reader(texts))

    def predict(self, texts: Encoded) -> list[str]:
        self.prototypes.means  # noqa: B018  (refuses before anything is computed)
        return self.prototypes.nearest(self.reader.again(texts), self.metric)

    def state(self) -> Mapping[str, Tensor]:
        return {"sums": self.prototypes.sums, "counts": self.prototypes.counts}

    def save(self, folder: Path) -> None:
        self.prototypes.save(folder / PROTOTYPES)

    def adapted(self) -> PreTrainedModel | None:
        return self._refined
