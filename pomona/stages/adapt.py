"""`adapt`: make a trained model good at one task, by all of its parameters or by few."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat

from pomona.catalog import AdapterMethod, Optimizer
from pomona.ground.errors import PomonaError
from pomona.stages.base import Forecast, Job, Made, Need, View
from pomona.stages.training import BUDGETS, TrainingStage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AdaptStage(TrainingStage):
    """Adapt a trained model to a task: labelled texts or pictures, or a corpus to write like."""

    verb = "adapt"
    flat = "method"
    supersedes: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = (*BUDGETS, "epochs")

    from_: str | None = Field(default=None, alias="from")
    """The model: name of a stage, or a folder."""
    task: Literal["classify", "write"] = "classify"
    """What it is for: `classify` learns the labels of `examples`, `write` the tokens of `data` by `objective`."""
    examples: str | None = None
    """The labelled texts, or pictures for an encoder of images: name of a stage, or a folder."""
    method: AdapterMethod = Field(default="full", validate_default=True)
    """Which parameters are trained, and how; the method's own parameters stand beside it."""
    optimizer: Optimizer = Field(
        default={"method": "adamw", "learning_rate": 3e-4, "beta2": 0.999, "weight_decay": 0.01}, validate_default=True
    )
    """How weights follow gradients."""
    epochs: PositiveFloat | None = None
    """Budget in passes over the labelled texts or pictures."""

    def needs(self) -> tuple[Need, ...]:
        data, *budget = super().needs()
        examples = Need("examples", "examples", (self.examples,) if self.examples else (), also=("images",))
        model = Need("from", "model", (self.from_,) if self.from_ else ())
        return (model, examples if self.task == "classify" else data, *budget)

    def plan(self, view: View) -> Forecast:
        from pomona.stages import models

        model = models.expected(view, "from")
        if model is None:
            return Forecast()
        if self.task == "write":
            forecast = self.forecast(view, model, view.one("from").known)
            self._attached(view, model)
            return forecast
        try:
            return self._classifying(view, model)
        except PomonaError as error:
            view.problem("from", error.what, error.do or error.found or "")
            return Forecast()

    def _classifying(self, view: View, base: PreTrainedModel) -> Forecast:
        """What training a classifier takes: of texts an upper bound, as if every one had `seq_length` tokens."""
        from pomona import anatomy
        from pomona.stages import fitting
        from pomona.tasks.classifier import shape_of
        from pomona.tasks.classify import Classify
        from pomona.tasks.pictures import ClassifyPictures, picture_shape_of

        sequences = fitting.sequences_of(view, anatomy.of(base), self.seq_length, "examples")
        if sequences is None:
            return Forecast()
        pictures = fitting.pictures_of(view, "examples") is not None
        labels = self._labels(view)
        model = picture_shape_of(base, labels) if pictures else shape_of(base, labels)
        body = anatomy.of(model)
        if not fitting.check_model(view, ClassifyPictures() if pictures else Classify(), body, "from"):
            return Forecast()
        if pictures and self.tokens is not None:
            view.problem("tokens", "a budget of labelled pictures is not in tokens", "give epochs, steps or flops")
        if not pictures and body.max_positions is not None and self.seq_length > body.max_positions:
            view.problem(
                "seq_length",
                f"{self.seq_length} tokens are more than the model's {body.max_positions} positions",
                f"seq_length: {body.max_positions}",
            )
        self._attached(view, model)
        each = body.flops_per_token(sequences.length, training=True) * sequences.length
        count = (view.known("examples", "facts") or {}).get("train")
        if self.epochs is not None:
            steps = None if count is None else self.steps_of(count)
        else:
            steps = self._steps(each * self.batch_size, view.flops("flops_of"))
        note = f"{self.method.method}, {self.optimizer.method}, {self.schedule.method}"
        known = {"model": model, "objective": None}
        if steps is None:
            return Forecast(parameters=body.parameter_count(), note=note, known=known)
        pilots = len(self.sweep.learning_rate) * self.pilot_steps(steps) if self.sweep else 0
        return Forecast(
            tokens=None if pictures else steps * self.tokens_per_step,
            parameters=body.parameter_count(),
            flops=steps * each * self.batch_size,
            note=note + (f", {len(self.sweep.learning_rate)} pilots" if self.sweep else ""),
            known={**known, "work_flops": (steps + pilots) * self.batch_size * each},
        )

    def _labels(self, view: View) -> list[str]:
        """The labels, or as many names as there will be; a problem where there are none."""
        facts = view.known("examples", "facts") or {}
        if "labels" in facts and len(facts["labels"]) < 2:
            view.problem(
                "examples",
                f"there are {len(facts['labels'])} labels to learn",
                "put the pictures into sub-folders, one for each label",
            )
        return facts.get("labels") or [str(number) for number in range(view.known("examples", "classes") or 2)]

    def _attached(self, view: View, model: PreTrainedModel) -> None:
        """Report what the method says against the model."""
        import copy

        from pomona import anatomy
        from pomona.tasks.classifier import head_of

        tried = copy.deepcopy(model)
        try:
            head = head_of(tried) if self.task == "classify" else ()
            self.method.attach_(anatomy.of(tried), head=head)  # type: ignore[attr-defined]
        except PomonaError as error:
            view.problem("method", str(error))

    def steps_of(self, examples: int) -> int:
        """Optimizer steps of `epochs` passes over so many examples."""
        assert self.epochs is not None
        return max(1, round(self.epochs * examples / self.batch_size))

    def pilot(self, rate: float, steps: int) -> Self:
        return super().pilot(rate, steps).model_copy(update={"epochs": None})

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        from pomona.ground.machine import matmul_rate

        flops = forecast.known.get("work_flops") or forecast.flops
        return None if flops is None else 2.0 + flops / (0.2 * matmul_rate())

    def make(self, job: Job) -> Made:
        from pomona.stages.adapting import adapt

        return adapt(self, job)
