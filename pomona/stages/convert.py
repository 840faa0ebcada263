"""`convert`: give a trained model another form that computes the same."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pomona.catalog import Conversion
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View


class ConvertStage(Stage):
    """Give a trained model another form that computes the same."""

    verb = "convert"
    makes: ClassVar[ArtefactKind] = "model"
    flat = "method"
    supersedes = True

    from_: str | None = Field(default=None, alias="from")
    """The model: name of a stage, or a folder."""
    method: Conversion = Field(default="pre-crmsnorm", validate_default=True)
    """How it is converted; the method's own parameters stand beside it."""

    def needs(self) -> tuple[Need, ...]:
        return (Need("from", "model", (self.from_,) if self.from_ else ()),)

    def plan(self, view: View) -> Forecast:
        from pomona import anatomy
        from pomona.stages import fitting, models

        model = models.expected(view, "from")
        converted = model and models.rehearsed(view, model, self.method.apply_)  # type: ignore[attr-defined]
        if model is None or converted is None:
            return Forecast()
        body = anatomy.of(converted)
        loading = "; loads with pomona.anatomy.load only" if body.loads_with == "pomona" else ""
        known = {"model": converted, **fitting.passed_on(view.one("from").known)}
        return Forecast(parameters=body.parameter_count(), note=f"{self._note()}{loading}", known=known)

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        return 1.0 + (forecast.parameters or 0) / 2e8

    def make(self, job: Job) -> Made:
        from pomona import anatomy
        from pomona.engine import Ledger
        from pomona.stages import fitting, models

        source = job.input("from")
        model = models.load(source.folder)
        report = self.method.apply_(model)  # type: ignore[attr-defined]
        models.save(model, models.load_tokenizer(source.folder), job.folder)
        ledger = Ledger()
        ledger.charge("convert", seconds=report.seconds)
        facts = fitting.facts_of_edited(source.facts)
        facts |= {
            "parameters": report.parameters_after,
            "blocks": len(anatomy.of(model).blocks),
            "difference": report.difference,
            "loads_with": report.loads_with,
            "note": self._note(),
        }
        return Made(facts, ledger)

    def _note(self) -> str:
        values = self.method.model_dump(exclude={"method"})
        return ", ".join([self.method.method, *(f"{name} {value}" for name, value in values.items())])
