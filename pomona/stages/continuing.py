"""`continue`: train a model on."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pomona.ground.errors import PomonaError
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, View
from pomona.stages.training import TrainingStage


class ContinueStage(TrainingStage):
    """Train a model on, with a new optimizer and schedule, on data it has not read where there are some."""

    verb = "continue"
    reads: ClassVar[tuple[ArtefactKind, ...]] = ("tokens", "images")
    supersedes: ClassVar[bool] = True
    later: ClassVar[frozenset[str]] = frozenset({"zeros"})

    from_: str | None = Field(default=None, alias="from")
    """The model: name of a stage, or a folder."""
    new_tokens: Literal["refuse", "add"] = "refuse"
    """What happens where the text has tokens that the model does not know: `add` gives it embeddings for them, each the
    mean of all."""

    zeros: Literal["held", "freed"] = "held"
    """What becomes of weights that pruning or sparse training has left at zero: they stay so, or learn like all."""

    def needs(self) -> tuple[Need, ...]:
        return (Need("from", "model", (self.from_,) if self.from_ else ()), *super().needs())

    def plan(self, view: View) -> Forecast:
        from pomona.stages import fitting, models
        from pomona.stages.vocabulary import widen_vocabulary_

        model = models.expected(view, "from")
        size = None if fitting.pictures_of(view) else fitting.vocab_size_of(view)
        if model is not None and size is not None and self.new_tokens == "add":
            try:
                widen_vocabulary_(model, size)
            except PomonaError as error:
                view.problem("new_tokens", str(error))
        return self.forecast(view, model, view.one("from").known)

    def make(self, job: Job) -> Made:
        from pomona.data import Tokens
        from pomona.stages import models
        from pomona.stages.train import train
        from pomona.stages.vocabulary import widen_vocabulary_

        source = job.input("from")
        model = models.load(source.folder)
        if self.new_tokens == "add" and job.input("data").kind == "tokens":
            widen_vocabulary_(model, Tokens.open(job.input("data").folder).vocab_size)
        return train(self, job, model, source)
