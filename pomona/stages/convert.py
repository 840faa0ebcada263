"""`convert`: give a trained model another form, which computes the same or is repaired by training on."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pomona.catalog import Conversion
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View


class ConvertStage(Stage):
    """Give a trained model another form, which computes the same or is repaired by training on."""

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
        body, cache = anatomy.of(converted), anatomy.of(model).kv_cache_bytes(1)
        loading = "; loads with pomona.anatomy.load only" if body.loads_with == "pomona" else ""
        known = {"model": converted, **fitting.passed_on(view.one("from").known)}
        return Forecast(
            parameters=body.parameter_count(), note=f"{self._note(cache, body.kv_cache_bytes(1))}{loading}", known=known
        )

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
            "note": self._note(report.cache_before, report.cache_after),
        }
        if report.cache_after is not None:
            facts |= {"cache_bytes_before": report.cache_before, "cache_bytes_per_token": report.cache_after}
        return Made(facts, ledger)

    def _note(self, cache_before: int | None, cache_after: int | None) -> str:
        values = self.method.model_dump(exclude={"method"}, exclude_none=True)
        said = [self.method.method, *(f"{name} {value}" for name, value in values.items())]
        if cache_before != cache_after:
            said.append(f"{cache_before} to {cache_after} bytes of cache per token")
        return ", ".join(said)
