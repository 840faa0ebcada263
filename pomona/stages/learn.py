"""`learn`: the labels of texts in sessions, a few classes at a time, without seeing earlier texts again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from pomona.catalog import AdapterMethod, Continual, Optimizer, ScheduleMethod
from pomona.ground.errors import PomonaError
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View
from pomona.stages.training import EngineOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LearnStage(Stage):
    """Learn the labels of texts class by class, in sessions, and say how accurate it is after each."""

    verb = "learn"
    makes: ClassVar[ArtefactKind] = "learner"
    flat = "method"
    seeded = True
    on_all_ranks = True

    from_: str | None = Field(default=None, alias="from")
    """The model: name of a stage, or a folder. It stays as it is."""
    examples: str | None = None
    """The labelled texts: name of a stage, or a folder."""
    method: Continual = Field(default="nmc-baseline", validate_default=True)
    """What is kept of each session; the method's own parameters stand beside it."""
    first: PositiveInt | None = None
    """Classes of the first session. Default: `classes`."""
    classes: PositiveInt = 2
    """Classes of each later session; the last one has what is left."""
    seq_length: PositiveInt = 256
    """Tokens of the longest text."""
    adapter: AdapterMethod = Field(default="lora", validate_default=True)
    """How the model is adapted to the first session, by a method that asks for it."""
    optimizer: Optimizer = Field(
        default={"method": "adamw", "learning_rate": 1e-3, "beta2": 0.999, "weight_decay": 0.01}, validate_default=True
    )
    """How weights follow gradients while it is adapted."""
    schedule: ScheduleMethod = Field(default="warmup-cosine", validate_default=True)
    """The learning rate while it is adapted."""
    epochs: PositiveFloat = 20.0
    """Passes over the first session while it is adapted (the paper of `aper`: 20)."""
    batch_size: PositiveInt = 48
    """Texts of one step of that; fewer where the session has fewer."""
    engine: EngineOptions = Field(default={}, validate_default=True)
    """How that run is carried out: precision, compile, micro_batches ..."""
    seed: NonNegativeInt | None = None
    """Seed of the order of the classes, and of all that is drawn. Default: the recipe's."""

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("from", "model", (self.from_,) if self.from_ else ()),
            Need("examples", "examples", (self.examples,) if self.examples else ()),
        )

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        if not self.method.adapts:  # type: ignore[attr-defined]
            for key in ("adapter", "optimizer", "schedule", "epochs", "batch_size", "engine"):
                values.pop(key)
        return values

    @property
    def in_first(self) -> int:
        """Classes of the first session."""
        return self.first or self.classes

    def plan(self, view: View) -> Forecast:
        from pomona import anatomy
        from pomona.stages import models

        facts = view.known("examples", "facts") or {}
        count = len(facts["labels"]) if "labels" in facts else view.known("examples", "classes")
        if count is not None and self.in_first > count:
            view.problem("first" if self.first else "classes", f"{self.in_first} classes are more than the {count}")
        model = models.expected(view, "from")
        if model is None:
            return Forecast()
        adapts: bool = self.method.adapts  # type: ignore[attr-defined]
        try:
            body = anatomy.of(model)
            self.method.check(body)  # type: ignore[attr-defined]
            if body.max_positions is not None and self.seq_length > body.max_positions:
                view.problem(
                    "seq_length",
                    f"{self.seq_length} tokens are more than the model's {body.max_positions} positions",
                    f"seq_length: {body.max_positions}",
                )
            if adapts and self.in_first < 2:
                view.problem("first", f"{self.method.method} adapts the model to the first session", "first: 2 or more")
            elif adapts:
                self._check_adapter(view, model)
        except PomonaError as error:
            view.problem("from", error.what, error.do or error.found or "")
            return Forecast()
        note = f"{self.method.method}{f' by {self.adapter.method}' if adapts else ''}"
        if "train" not in facts:
            return Forecast(parameters=body.parameter_count(), note=note)
        per_token = body.flops_per_token(self.seq_length, training=False)
        texts = facts["train"] + facts["test"] or facts["validation"]
        trained = 3 * self.epochs * facts["train"] * self.in_first / (count or 1) if adapts else 0.0
        tokens = round(self.seq_length * ((2 if adapts else 1) * texts + trained / 3))
        flops = self.seq_length * per_token * ((2 if adapts else 1) * texts + trained)
        return Forecast(tokens=tokens, parameters=body.parameter_count(), flops=flops, note=note)

    def _check_adapter(self, view: View, model: PreTrainedModel) -> None:
        """Report what the adapter says against the model; what cannot become part of its weights is of no use here."""
        from pomona import anatomy
        from pomona.tasks.classifier import head_of, shape_of

        tried = shape_of(model, [str(number) for number in range(self.in_first)])
        try:
            adapter = self.adapter.attach_(anatomy.of(tried), head=head_of(tried))  # type: ignore[attr-defined]
        except PomonaError as error:
            view.problem("adapter", str(error))
            return
        if not adapter.mergeable:
            view.problem("adapter", f"{self.adapter.method} does not become part of the weights", "adapter: lora")

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        from pomona.ground.machine import matmul_rate

        return None if forecast.flops is None else 2.0 + forecast.flops / (0.2 * matmul_rate())

    def make(self, job: Job) -> Made:
        from pomona.stages.learning import learn

        return learn(self, job)
