"""`examples`: labelled texts, divided into what is trained on, what is chosen by, and what is told in the end."""

from __future__ import annotations

from typing import Any, ClassVar

from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Stage, View
from pomona.tasks.config import ExamplesConfig


class ExamplesStage(Stage, ExamplesConfig):
    """Read labelled texts from tables, folders or this Python environment."""

    verb = "examples"
    makes: ClassVar[ArtefactKind] = "examples"

    def config(self) -> ExamplesConfig:
        """What the tasks room is told."""
        return ExamplesConfig.model_validate(self.model_dump(include=set(ExamplesConfig.model_fields)))

    def outside(self) -> Any:
        from pomona.tasks.examples import fingerprint

        return fingerprint(self.config())

    def plan(self, view: View) -> Forecast:
        shown = ", ".join(source.path for source in self.sources)
        return Forecast(note=shown, known={"classes": self.classes})

    def make(self, job: Job) -> Made:
        from pomona.tasks.examples import make_examples

        facts = make_examples(self.config(), job.folder)
        note = f"{facts['train']:,} to train on, {facts['test']:,} to test, {len(facts['labels'])} labels"
        return Made({**facts, "note": note})
