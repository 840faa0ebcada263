"""`report`: one self-contained page that says what every step bought."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View


class ReportStage(Stage):
    """Write report.html: the recipe next to its baselines, what each stage cost and gained."""

    verb = "report"
    makes: ClassVar[ArtefactKind] = "report"

    from_: str | None = Field(default=None, alias="from")
    """The examination: name of a stage, or a folder."""
    title: str = ""
    """Title of the page. Default: the recipe's name."""
    arms: dict[str, str] = Field(default={})
    """Name shown: last stage of the arm. Default: one arm for each model that is trained from scratch."""
    notes: tuple[str, ...] = ()
    """Remarks that a reader needs in order to judge."""

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("from", "examination", (self.from_,) if self.from_ else ()),
            Need("models", "model", default="all", optional=True),
            Need("arms", "model", tuple(self.arms.values()), default="none", optional=True),
        )

    def plan(self, view: View) -> Forecast:
        return Forecast(note="report.html")

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        return 3.0

    def make(self, job: Job) -> Made:
        from pomona.stages.reporting import report

        return report(self, job)
