"""`quantize`: store the weights of a model in few bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from pomona.catalog import ObjectiveMethod, Quantization
from pomona.ground.errors import PomonaError
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View

if TYPE_CHECKING:
    pass


class QuantizeStage(Stage):
    """Store the weights of a model in few bits, as a folder that transformers loads without pomona."""

    verb = "quantize"
    makes: ClassVar[ArtefactKind] = "model"
    flat = "method"
    seeded = True

    from_: str | None = Field(default=None, alias="from")
    """The model: name of a stage, or a folder."""
    data: str | None = None
    """The tokens to calibrate on: name of a stage, or a folder."""
    calibration_tokens: PositiveInt = 32_768
    """Training tokens whose activations the method sees."""
    seq_length: PositiveInt | None = None
    """Tokens per sequence of calibration and evaluation. Default: as the model was trained, else 256."""
    objective: ObjectiveMethod | None = None
    """What the result is scored by. Default: what the model was trained for."""
    validation_tokens: PositiveInt = 65_536
    """Held-out tokens on which the result is evaluated."""
    method: Quantization = Field(default="gptq", validate_default=True)
    """How weights are rounded; the method's own parameters (bits, group_size ...) stand beside it."""
    seed: NonNegativeInt | None = None
    """Seed of the choice of calibration sequences. Default: the recipe's."""

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("from", "model", (self.from_,) if self.from_ else ()),
            Need("data", "tokens", (self.data,) if self.data else ()),
        )

    def plan(self, view: View) -> Forecast:
        from pomona import anatomy
        from pomona.stages import fitting, models

        model = models.expected(view, "from")
        if model is None:
            return Forecast()
        try:
            body = anatomy.of(model)
        except PomonaError as error:
            view.problem("from", str(error))
            return Forecast()
        from pomona.quantization.export import check_export

        try:
            self.method.check(body)  # type: ignore[attr-defined]
            check_export(self.method)  # type: ignore[arg-type]
        except PomonaError as error:
            view.problem("method", str(error))
        source = view.one("from").known
        length = fitting.length_of(self.seq_length, [source])
        if body.max_positions is not None and length > body.max_positions:
            view.problem("seq_length", f"{length} tokens are more than the model's {body.max_positions} positions")
        method = fitting.common_objective(view, self.objective, [source])
        objective = fitting.objective_for(view, method, seq_length=length) if method else None
        if objective is not None:
            fitting.check_model(view, objective, body)
        values = self.method.model_dump()
        note = f"{self.method.method}, {values.get('bits')} bits, groups of {values.get('group_size')}"
        flops = self.calibration_tokens * body.flops_per_token(length, training=False)
        return Forecast(
            tokens=self.calibration_tokens,
            parameters=body.parameter_count(),
            flops=2 * flops,
            note=note,
            known={**fitting.passed_on(source), "model": model, "objective": method},
        )

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        from pomona.ground.machine import matmul_rate

        if forecast.flops is None or forecast.parameters is None:
            return None
        return 2.0 + forecast.flops / (0.2 * matmul_rate()) + forecast.parameters / 4e6

    def make(self, job: Job) -> Made:
        from pomona import anatomy
        from pomona.data import Tokens
        from pomona.engine import Ledger
        from pomona.ground.quiet import without_bars
        from pomona.quantization.export import save_compressed
        from pomona.stages import fitting, models
        from pomona.stages.calibrating import calibration_batches, quality_of

        source, tokens = job.input("from"), Tokens.open(job.input("data").folder)
        length = fitting.length_of(self.seq_length, [{"facts": source.facts}])
        model = models.load(source.folder)
        tokens.require_vocabulary(model.config.vocab_size)
        ledger = Ledger()
        model.eval()
        raw = calibration_batches(tokens, count=self.calibration_tokens, seq_length=length, seed=job.seed)
        inputs = [{"input_ids": batch["tokens"][:, :-1]} for batch in raw]
        report = self.method.apply_(model, inputs)  # type: ignore[attr-defined]
        ledger.charge("calibrate", flops=report.flops, seconds=report.seconds, tokens=self.calibration_tokens)
        with without_bars():
            save_compressed(model, report, job.folder)
        tokens.tokenizer.save_pretrained(job.folder)
        body = anatomy.of(model)
        method = fitting.objective_of(self.objective, [source.facts])
        objective = method.build(tokens.tokenizer)  # type: ignore[attr-defined]
        quality = quality_of(body, objective, tokens, seq_length=length, limit=self.validation_tokens, ledger=ledger)
        values = self.method.model_dump()
        facts: dict[str, Any] = fitting.facts_of_edited(source.facts) | {
            "parameters": body.parameter_count(),
            "blocks": len(body.blocks),
            "quality": quality,
            "objective": method.model_dump(mode="json"),
            "bits": values.get("bits"),
            "group_size": values.get("group_size"),
            "bits_per_weight": report.bits_per_weight,
            "note": f"{self.method.method}, {values.get('bits')} bits, groups of {values.get('group_size')}",
        }
        return Made(facts, ledger)
