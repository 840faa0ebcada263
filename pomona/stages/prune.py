"""`prune`: make a trained model smaller or sparser."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from pomona.catalog import ObjectiveMethod, Sparsity
from pomona.ground.errors import PomonaError
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View

if TYPE_CHECKING:
    from pomona.data import Tokens
    from pomona.engine import Batch, Objective

LOADERS = {
    "transformers": "transformers loads it",
    "pomona": "only pomona.anatomy.load loads it: no field of transformers expresses its sizes",
    None: "its sizes follow from the scores, and only pomona.anatomy.load is sure to load it",
}
"""What the plan says about the folder that will be made."""


class PruneStage(Stage):
    """Make a trained model smaller or sparser: remove heads, features or blocks, or zero single weights."""

    verb = "prune"
    makes: ClassVar[ArtefactKind] = "model"
    flat = "method"
    seeded = True

    from_: str | None = Field(default=None, alias="from")
    """The model: name of a stage, or a folder."""
    data: str | None = None
    """The tokens that scores are taken on and the result is evaluated on: name of a stage, or a folder. Methods that
    do not look at data go without."""
    calibration_tokens: PositiveInt = 32_768
    """Training tokens that the method sees."""
    seq_length: PositiveInt | None = None
    """Tokens per sequence of calibration and evaluation. Default: as the model was trained, else 256."""
    objective: ObjectiveMethod | None = None
    """Whose loss decides, and what the result is scored by. Default: what the model was trained for."""
    validation_tokens: PositiveInt = 65_536
    """Held-out tokens on which the result is evaluated."""
    method: Sparsity = Field(default="ffn-removal", validate_default=True)
    """What is removed; the method's own parameters (fraction, score, sparsity ...) stand beside it."""
    seed: NonNegativeInt | None = None
    """Seed of the choice of calibration sequences. Default: the recipe's."""

    @model_validator(mode="after")
    def _prunes(self) -> Self:
        if not hasattr(self.method, "rehearse_"):
            raise ValueError(f"{self.method.method} trains from the start: give it to `pretrain` as `sparsity`")
        return self

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("from", "model", (self.from_,) if self.from_ else ()),
            Need("data", "tokens", (self.data,) if self.data else (), optional=not self._looks),
        )

    @property
    def _looks(self) -> bool:
        """Whether the method looks at data."""
        return bool(self.method.needs_batches)  # type: ignore[attr-defined]

    def plan(self, view: View) -> Forecast:
        from pomona import anatomy
        from pomona.stages import fitting, models

        source = view.one("from").known
        method = fitting.common_objective(view, self.objective, [source])
        length = fitting.length_of(self.seq_length, [source])
        known = {**fitting.passed_on(source), "objective": method}
        model = models.expected(view, "from")
        if model is None:
            return Forecast(known=known)
        try:
            body, pruned = anatomy.of(model), copy.deepcopy(model)
            loader = self.method.rehearse_(pruned)  # type: ignore[attr-defined]
        except PomonaError as error:
            view.problem("method", str(error))
            return Forecast()
        if view.all("data") and body.max_positions is not None and length > body.max_positions:
            view.problem("seq_length", f"{length} tokens are more than the model's {body.max_positions} positions")
        objective = fitting.objective_for(view, method, seq_length=length) if method else None
        if objective is not None:
            fitting.check_model(view, objective, body)
        passes: float = self.method.passes  # type: ignore[attr-defined]
        flops = passes * self.calibration_tokens * body.flops_per_token(length, training=False)
        if loader is not None:
            known["model"] = pruned
        return Forecast(
            tokens=self.calibration_tokens if self._looks else None,
            parameters=None if loader is None else anatomy.of(pruned).parameter_count(),
            flops=flops,
            note=self.method.method,
            remark=f"{self.name or self.verb}: {LOADERS[loader]}",
            known=known,
        )

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        from pomona.ground.machine import matmul_rate

        return None if forecast.flops is None else 2.0 + forecast.flops / (0.2 * matmul_rate())

    def make(self, job: Job) -> Made:
        from pomona import anatomy
        from pomona.data import Tokens
        from pomona.engine import Ledger
        from pomona.ground.files import write_json
        from pomona.sparsity import count_zeros
        from pomona.stages import fitting, models
        from pomona.stages.calibrating import quality_of

        source = job.input("from")
        tokens = Tokens.open(job.input("data").folder) if job.inputs.get("data") else None
        model = models.load(source.folder).eval()
        method = fitting.objective_of(self.objective, [source.facts])
        length = fitting.length_of(self.seq_length, [{"facts": source.facts}])
        objective, batches = None, []
        if tokens is not None:
            tokens.require_vocabulary(model.config.vocab_size)
            objective = method.build(tokens.tokenizer)  # type: ignore[attr-defined]
            batches = self._calibration(tokens, objective, length, job.seed) if self._looks else []
        report = self.method.apply_(model, batches, objective)  # type: ignore[attr-defined]
        models.save(model, models.load_tokenizer(source.folder), job.folder)
        write_json(job.folder / "pruning.json", report.to_dict())
        ledger = Ledger()
        ledger.charge("prune", flops=report.flops, seconds=report.seconds, tokens=report.tokens)
        body = anatomy.of(model)
        quality = None
        if tokens is not None and objective is not None:
            quality = quality_of(
                body, objective, tokens, seq_length=length, limit=self.validation_tokens, ledger=ledger
            )
        facts: dict[str, Any] = fitting.facts_of_edited(source.facts) | {
            "objective": method.model_dump(mode="json"),
            "parameters": body.parameter_count(),
            "blocks": len(body.blocks),
            "zeros": count_zeros(body) if report.zeros or source.facts.get("zeros") else 0,
            "loads_with": report.loads_with,
            "quality": quality,
            "note": report.note,
        }
        return Made(facts, ledger)

    def _calibration(self, tokens: Tokens, objective: Objective, length: int, seed: int) -> list[Batch]:
        """Random training sequences, prepared for the objective."""
        import torch

        from pomona.stages.calibrating import calibration_batches

        raw = calibration_batches(tokens, count=self.calibration_tokens, seq_length=length, seed=seed)
        return [
            objective.prepare(batch, torch.Generator().manual_seed(seed + place)) for place, batch in enumerate(raw)
        ]
