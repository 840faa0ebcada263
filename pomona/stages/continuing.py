"""`continue`: train a model on."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pomona.stages.base import Forecast, Job, Made, Need, View
from pomona.stages.training import TrainingStage


class ContinueStage(TrainingStage):
    """Train a model on, with a new optimizer and schedule, on text it has not read where there is some."""

    verb = "continue"
    supersedes: ClassVar[bool] = True

    from_: str | None = Field(default=None, alias="from")
    """The model: name of a stage, or a folder."""

    def needs(self) -> tuple[Need, ...]:
        return (Need("from", "model", (self.from_,) if self.from_ else ()), *super().needs())

    def plan(self, view: View) -> Forecast:
        from pomona.stages import models

        return self.forecast(view, models.expected(view, "from"), view.one("from").known)

    def make(self, job: Job) -> Made:
        from pomona.stages import models
        from pomona.stages.train import train

        source = job.input("from")
        return train(self, job, models.load(source.folder), source)
