"""`grow`: make a trained model larger."""

from __future__ import annotations

import copy
from typing import ClassVar

from pydantic import Field

from pomona.catalog import Growth
from pomona.ground.errors import PomonaError
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View


class GrowStage(Stage):
    """Make a trained model larger."""

    verb = "grow"
    makes: ClassVar[ArtefactKind] = "model"
    flat = "method"
    supersedes = True

    from_: str | None = Field(default=None, alias="from")
    """The model: name of a stage, or a folder."""
    method: Growth = Field(default="g-stack", validate_default=True)
    """How it grows; the method's own parameters stand beside it."""

    def needs(self) -> tuple[Need, ...]:
        return (Need("from", "model", (self.from_,) if self.from_ else ()),)

    def plan(self, view: View) -> Forecast:
        from pomona import anatomy
        from pomona.stages import models
        from pomona.stages.fitting import trained_for

        model = models.expected(view, "from")
        if model is None:
            return Forecast()
        try:
            grown = copy.deepcopy(model)
            self.method.apply_(grown)  # type: ignore[attr-defined]
        except PomonaError as error:
            view.problem("method", str(error))
            return Forecast()
        body = anatomy.of(grown)
        note = f"{self.method.method}, {len(anatomy.of(model).blocks)} blocks to {len(body.blocks)}"
        known = {"model": grown, "objective": trained_for(view.one("from").known)}
        return Forecast(parameters=body.parameter_count(), note=note, known=known)

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        return 1.0 + (forecast.parameters or 0) / 1e9

    def make(self, job: Job) -> Made:
        from pomona import anatomy
        from pomona.engine import Ledger
        from pomona.stages import models

        source = job.input("from")
        model = models.load(source.folder)
        before = len(anatomy.of(model).blocks)
        report = self.method.apply_(model)  # type: ignore[attr-defined]
        models.save(model, models.load_tokenizer(source.folder), job.folder)
        ledger = Ledger()
        ledger.charge("grow", flops=getattr(report, "flops", 0.0), seconds=report.seconds)
        body = anatomy.of(model)
        facts = {key: source.facts[key] for key in ("read", "learning_rate", "objective") if key in source.facts}
        note = f"{self.method.method}, {before} blocks to {len(body.blocks)}"
        facts |= {"parameters": body.parameter_count(), "blocks": len(body.blocks), "note": note}
        return Made(facts, ledger)
