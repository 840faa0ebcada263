"""`probe`: look into models by what they make of labelled texts."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, NonNegativeInt

from pomona.catalog import Probing
from pomona.ground.errors import PomonaError
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View


class ProbeStage(Stage):
    """Look into models on labelled texts: what their features hold, and how training moved them."""

    verb = "probe"
    makes: ClassVar[ArtefactKind] = "finding"
    flat = "method"
    seeded = True

    models: tuple[str, ...]
    """The models in the order that the method asks for: names of stages, or folders."""
    examples: str | None = None
    """The labelled texts, of which the held-out side is used: name of a stage, or a folder."""
    method: Probing = Field(default="sufo", validate_default=True)
    """What is looked at; the method's own parameters stand beside it."""
    seed: NonNegativeInt | None = None
    """Of everything random. Default: the recipe's."""

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("models", "model", self.models),
            Need("examples", "examples", (self.examples,) if self.examples else ()),
        )

    def plan(self, view: View) -> Forecast:
        from pomona import anatomy
        from pomona.stages import models

        found = models.all_expected(view, "models")
        try:
            if all(model is not None for model in found):
                self.method.check([anatomy.of(model) for model in found])  # type: ignore[attr-defined]
        except PomonaError as error:
            view.problem("models", str(error))
        return Forecast(note=f"{self.method.method} of {len(self.models)} models")

    def make(self, job: Job) -> Made:
        from pomona.engine import Ledger
        from pomona.examination.probing import Subject
        from pomona.ground.files import write_json
        from pomona.tasks import Examples

        subjects = [Subject(model.name, model.folder) for model in job.inputs["models"]]
        examples = Examples.open(job.input("examples").folder)
        report = self.method.probe(subjects, examples, seed=job.seed)  # type: ignore[attr-defined]
        write_json(job.folder / "probe.json", report.to_dict())
        ledger = Ledger()
        ledger.charge("probe", flops=report.flops, seconds=report.seconds)
        return Made({"numbers": dict(report.numbers), "note": self.method.method}, ledger)
