"""Three small stages that make text files, so that the framework is tested without models."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pomona.ground.errors import TrainingStopped
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View

LOG: list[str] = []
"""Which stages worked, in order."""
STOP: dict[str, int] = {}
"""Count at which a stage is interrupted, by label."""


class SowStage(Stage):
    """Write a text."""

    verb = "sow"
    makes: ClassVar[ArtefactKind] = "tokens"

    text: str
    """What is written."""

    def plan(self, view: View) -> Forecast:
        if self.text == "stones":
            view.problem("text", "stones do not grow", "sow seeds")
        return Forecast(tokens=len(self.text), known={"length": len(self.text)})

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        return 1.0

    def make(self, job: Job) -> Made:
        LOG.append(job.name)
        (job.folder / "text").write_text(self.text)
        return Made({"length": len(self.text)})


class TendStage(Stage):
    """Repeat a text, counting in the work folder, so that it can be interrupted and continued."""

    verb = "tend"
    makes: ClassVar[ArtefactKind] = "model"
    seeded = True
    supersedes = True
    silent = frozenset({"remark"})

    from_: str | None = Field(default=None, alias="from")
    """The text."""
    times: int = Field(default=2, ge=1)
    """How often."""
    style: Literal["plain", "loud"] = "plain"
    """How it is written."""
    pilots: tuple[int, ...] = ()
    """Other counts that are tried before."""
    remark: str = ""
    """Changes nothing."""
    seed: int | None = None
    """Own seed."""

    def needs(self) -> tuple[Need, ...]:
        return (Need("from", "tokens", (self.from_,) if self.from_ else ()),)

    def plan(self, view: View) -> Forecast:
        if (view.known("from", "length") or 0) > 100:
            view.problem("times", "the text is too long to be repeated")
        return Forecast(parameters=self.times)

    def make(self, job: Job) -> Made:
        for times in self.pilots:
            pilot = self.model_copy(update={"times": times, "pilots": ()})
            job.run(pilot, f"{job.name}-pilot-{times}")
        counter = job.work / "count"
        done = int(counter.read_text()) if counter.is_file() else 0
        text = (job.input("from").folder / "text").read_text()
        while done < self.times:
            if STOP.get(job.name) == done:
                raise TrainingStopped("stopped", do="repeat")
            LOG.append(f"{job.name}:{done}")
            done += 1
            counter.write_text(str(done))
        (job.folder / "text").write_text(f"{job.seed} " + text * self.times)
        return Made({"times": self.times})


class JudgeStage(Stage):
    """Compare texts."""

    verb = "judge"
    makes: ClassVar[ArtefactKind] = "examination"

    models: tuple[str, ...] = ()
    """What is compared."""

    def needs(self) -> tuple[Need, ...]:
        return (Need("models", "model", self.models, default="ends"),)

    def make(self, job: Job) -> Made:
        LOG.append(job.name)
        (job.folder / "verdict").write_text(" ".join(artefact.name for artefact in job.inputs["models"]))
        return Made()


FAKE_VERBS = {
    "sow": f"{__name__}:SowStage",
    "tend": f"{__name__}:TendStage",
    "judge": f"{__name__}:JudgeStage",
}
