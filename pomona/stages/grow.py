"""`grow`: make a trained model larger."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pomona.catalog import Growth
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View

if TYPE_CHECKING:
    from pomona.anatomy import Anatomy


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
        from pomona.stages import fitting, models

        model = models.expected(view, "from")
        grown = model and models.rehearsed(view, model, self.method.apply_)  # type: ignore[attr-defined]
        if model is None or grown is None:
            return Forecast()
        body = anatomy.of(grown)
        note = self._note(anatomy.of(model), body)
        known = {"model": grown, **fitting.passed_on(view.one("from").known)}
        return Forecast(parameters=body.parameter_count(), note=note, known=known)

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        return 1.0 + (forecast.parameters or 0) / 1e9

    def make(self, job: Job) -> Made:
        from pomona import anatomy
        from pomona.engine import Ledger
        from pomona.stages import fitting, models

        source = job.input("from")
        model = models.load(source.folder)
        before = anatomy.shadow(source.folder)
        report = self.method.apply_(model)  # type: ignore[attr-defined]
        models.save(model, models.load_tokenizer(source.folder), job.folder)
        ledger = Ledger()
        ledger.charge("grow", flops=getattr(report, "flops", 0.0), seconds=report.seconds)
        body = anatomy.of(model)
        facts = fitting.facts_of_edited(source.facts)
        note = self._note(anatomy.of(before), body)
        facts |= {"parameters": body.parameter_count(), "blocks": len(body.blocks), "note": note}
        return Made(facts, ledger)

    def _note(self, before: Anatomy, after: Anatomy) -> str:
        """What grows, and what loads the result where transformers alone does not."""
        sizes = [f"{len(before.blocks)} blocks to {len(after.blocks)}"]
        if after.hidden_size != before.hidden_size:
            sizes.append(f"width {before.hidden_size} to {after.hidden_size}")
        if after.loads_with == "pomona":
            sizes.append("loads with pomona.anatomy.load only")
        return f"{self.method.method}, {', '.join(sizes)}"
