"""`distil`: train a student on what a teacher says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from pomona.catalog import Distillation, ObjectiveMethod
from pomona.ground.errors import PomonaError
from pomona.stages.base import Artefact, Forecast, Job, Made, Need, View
from pomona.stages.training import TrainingStage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pomona.anatomy import Anatomy
    from pomona.ground.config import MethodConfig


class DistilStage(TrainingStage):
    """Train a student, a new model or a trained one, on what a frozen teacher says of the same text."""

    verb = "distil"
    flat = "method"

    teacher: str | None = None
    """The model that teaches: name of a stage, or a folder. It is not changed."""
    from_: str | None = Field(default=None, alias="from")
    """The student: name of a stage, or a folder."""
    model: dict[str, Any] | None = None
    """The student, where it is new: `{shape: llama, hidden_size: 128, ...}` with any field of that configuration.
    Without either, it is a copy of the teacher, for methods that begin so."""
    examples: str | None = None
    """Texts whose classes the teacher tells, instead of `data`: name of a stage, or a folder. What is trained on has no
    labels; the held-out part is scored by its own where they are the teacher's."""
    method: Distillation = Field(default="kd", validate_default=True)
    """What the teacher says; the method's own parameters stand beside it."""
    objective: ObjectiveMethod | None = None  # type: ignore[assignment]
    """What makes inputs and targets of the text, and what the student is judged by. Default: what the teacher was
    trained for."""

    @model_validator(mode="after")
    def _one_student(self) -> Self:
        if self.from_ is not None and self.model is not None:
            raise ValueError("the student is either `from` a trained model or a new `model`; found both")
        if self.from_ is None and self.model is None and not self.method.copies_teacher:  # type: ignore[attr-defined]
            raise ValueError(f"{self.method.method} needs a student: `model`, a description, or `from`, a trained one")
        return self

    def needs(self) -> tuple[Need, ...]:
        teacher = Need("teacher", "model", (self.teacher,) if self.teacher else ())
        student = (Need("from", "model", (self.from_,)),) if self.from_ else ()
        data, *budget = super().needs()
        read = Need("examples", "examples", (self.examples,)) if self.examples else data
        return (teacher, *student, read, *budget)

    def plan(self, view: View) -> Forecast:
        from pomona import anatomy
        from pomona.stages import fitting, models

        if self.examples is not None:
            return self._plan_of_classes(view)
        objective = fitting.common_objective(view, self.objective, [view.one("teacher").known])
        teacher = models.expected(view, "teacher")
        if objective is None or teacher is None:
            return Forecast()
        try:
            student = self._planned(view, objective, teacher)
            if student is None:
                return Forecast()
            bodies = anatomy.of(student), anatomy.of(teacher)
            self.method.check(*bodies)  # type: ignore[attr-defined]
            self._check_teacher(view, bodies[1])
        except PomonaError as error:
            view.problem("model" if self.model and error.where else "method", str(error))
            return Forecast()
        if self.engine.compile == "always" and self._looks_inside:  # type: ignore[attr-defined]
            view.problem("engine.compile", f"{self.method.method} looks into blocks, which cannot be compiled then")
        source = view.one("from" if self.from_ else "teacher").known if self.model is None else None
        beside = bodies[1].flops_per_token(self.seq_length, training=False)
        forecast = self._with(objective).forecast(view, student, source, beside=beside)
        forecast.note = f"{self.method.method} from {bodies[1].parameter_count() / 1e6:.1f} M, {forecast.note}"
        own = bodies[0].flops_per_token(self.seq_length, training=True)
        forecast.known["slower"] = 1 + beside / own
        return forecast

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        objective = forecast.known.get("objective")
        if self.examples is not None:
            from pomona.ground.machine import matmul_rate

            return None if forecast.flops is None else 2.0 + forecast.flops / (0.2 * matmul_rate())
        if objective is None:
            return None
        alone = TrainingStage.seconds(self._with(objective), view, forecast)
        return None if alone is None else alone * float(forecast.known.get("slower", 1.0))

    def make(self, job: Job) -> Made:
        from pomona.data import Tokens
        from pomona.distillation import Teacher
        from pomona.stages import models
        from pomona.stages.fitting import objective_of
        from pomona.stages.train import train

        taught_by = job.input("teacher")
        if self.examples is not None:
            from pomona.stages.distilling import teach

            return self._told(teach(self._uncompiled(), job), taught_by) if job.main else teach(self._uncompiled(), job)
        objective = objective_of(self.objective, [taught_by.facts])
        teacher = Teacher(models.load(taught_by.folder))
        source = None if self.model is not None else job.input("from" if self.from_ else "teacher")
        student: PreTrainedModel
        if source is not None:
            student = models.load(source.folder)
        else:
            tokens = Tokens.open(job.input("data").folder)
            assert self.model is not None
            config = models.config_from(self.model, tokens.vocab_size)
            models.adopt_special_tokens(config, tokens.tokenizer)
            student = models.create(config, objective, seed=job.seed)
        made = train(
            self._with(objective),
            job,
            student,
            source,
            lesson=lambda task: self.method.build(teacher, task),  # type: ignore[attr-defined]
        )
        return self._told(made, taught_by) if job.main else made

    def _told(self, made: Made, taught_by: Artefact) -> Made:
        """The same with facts about teacher and method."""
        made.facts |= {
            "teacher": {"name": taught_by.name, "hash": taught_by.hash},
            "distillation": self.method.model_dump(mode="json"),
            "note": f"{self.method.method} from {taught_by.name}, {made.facts['note']}",
        }
        return made

    @property
    def _looks_inside(self) -> bool:
        return bool(self.method.looks_inside)  # type: ignore[attr-defined]

    def _with(self, objective: MethodConfig) -> Self:
        """The stage as it trains: its objective known, blocks left uncompiled where the method looks into them."""
        return self._uncompiled().model_copy(update={"objective": objective})

    def _uncompiled(self) -> Self:
        """The stage, with blocks left uncompiled where the method looks into them."""
        if not self._looks_inside:
            return self
        return self.model_copy(update={"engine": self.engine.model_copy(update={"compile": "never"})})

    def _plan_of_classes(self, view: View) -> Forecast:
        """What teaching a classifier takes: an upper bound, as if every text had `seq_length` tokens."""
        import torch
        import transformers

        from pomona import anatomy
        from pomona.stages import models
        from pomona.stages.distilling import labels_of
        from pomona.tasks.classifier import shape_of

        teacher = models.expected(view, "teacher")
        if teacher is None:
            return Forecast()
        try:
            labels, base = labels_of(teacher), teacher
            if self.from_ is not None:
                given = models.expected(view, "from")
                if given is None:
                    return Forecast()
                base = given
            elif self.model is not None:
                config = models.config_from(self.model, teacher.config.vocab_size)
                with torch.device("meta"):
                    base = transformers.AutoModel.from_config(config)
            student = shape_of(base, labels)
            bodies = anatomy.of(student), anatomy.of(teacher)
            self.method.check(*bodies)  # type: ignore[attr-defined]
            self._check_teacher(view, bodies[1])
        except PomonaError as error:
            view.problem("model" if self.model and error.where else "method", str(error))
            return Forecast()
        per_token = bodies[0].flops_per_token(self.seq_length, training=True)
        per_token += bodies[1].flops_per_token(self.seq_length, training=False)
        steps = self._steps(per_token * self.tokens_per_step, view.flops("flops_of"))
        tokens = None if steps is None else steps * self.tokens_per_step
        return Forecast(
            tokens=tokens,
            parameters=bodies[0].parameter_count(),
            flops=None if tokens is None else tokens * per_token,
            note=f"{self.method.method} from {bodies[1].parameter_count() / 1e6:.1f} M, {self.optimizer.method}",
            known={"model": student, "objective": None},
        )

    def _planned(self, view: View, objective: MethodConfig, teacher: PreTrainedModel) -> PreTrainedModel | None:
        """The student on the meta device; None where it is not known."""
        from pomona.stages import fitting, models

        if self.from_ is not None:
            return models.expected(view, "from")
        if self.model is None:
            return teacher
        config = models.config_from(self.model, fitting.vocab_size_of(view))
        if (tokenizer := fitting.tokenizer_of(view)) is not None:
            models.adopt_special_tokens(config, tokenizer)
        return models.create(config, objective, on_meta_device=True)

    def _check_teacher(self, view: View, body: Anatomy) -> None:
        """Report text that the teacher cannot read."""
        from pomona.stages import fitting

        if body.max_positions is not None and self.seq_length > body.max_positions:
            view.problem("seq_length", f"{self.seq_length} tokens are more than the teacher's {body.max_positions}")
        vocab_size = fitting.vocab_size_of(view)
        if vocab_size is not None and vocab_size > body.vocab_size:
            view.problem(
                "data",
                f"the tokens need a vocabulary of {vocab_size}, the teacher has {body.vocab_size}",
                "tokenize with the teacher's tokenizer",
            )
