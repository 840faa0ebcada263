"""`export`: a model folder for others: weights, tokenizer, and a card that says where it comes from."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View


class ExportStage(Stage):
    """Write a model as a folder for others, with its card."""

    verb = "export"
    makes: ClassVar[ArtefactKind] = "export"

    from_: str | None = Field(default=None, alias="from")
    """The model: name of a stage, or a folder."""
    title: str = ""
    """Name of the model in its card. Default: the stage's name."""
    license: str = "unknown"
    """Licence of the weights, as the Hub spells it (apache-2.0); yours to choose, in view of the text."""

    def needs(self) -> tuple[Need, ...]:
        return (Need("from", "model", (self.from_,) if self.from_ else ()),)

    def plan(self, view: View) -> Forecast:
        return Forecast(parameters=view.one("from").parameters, known=dict(view.one("from").known))

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        return 1.0

    def make(self, job: Job) -> Made:
        from pomona.stages.reporting import export

        return export(self, job)
