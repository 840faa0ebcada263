"""What `pretrain` and `continue` share: data, objective, optimizer, schedule, budget, sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pomona.catalog import ObjectiveMethod, Optimizer, ScheduleMethod
from pomona.ground.config import Config, MethodConfig
from pomona.ground.errors import PomonaError
from pomona.stages.base import ArtefactKind, Forecast, Job, Need, Stage, View
from pomona.stages.lazy import Imported

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pomona.anatomy import Anatomy

EngineOptions = Annotated[Config, Imported("pomona.engine.fit:FitConfig")]
BUDGETS = ("steps", "tokens", "flops", "flops_of")


class Sweep(Config):
    """Short pilots from the same start, one per learning rate; the best on held-out text is used."""

    learning_rate: tuple[PositiveFloat, ...] = Field(min_length=2)
    """The rates to try."""
    pilot: float = Field(default=0.1, gt=0.0, le=1.0)
    """Length of a pilot as a share of the stage's steps; its schedule is as much shorter."""


class TrainingStage(Stage):
    """The fields of every stage that trains."""

    makes: ClassVar[ArtefactKind] = "model"
    seeded: ClassVar[bool] = True
    on_all_ranks: ClassVar[bool] = True
    silent: ClassVar[frozenset[str]] = frozenset(
        {"engine.checkpoint_minutes", "engine.keep_checkpoints", "engine.trackers"}
    )

    budgets: ClassVar[tuple[str, ...]] = BUDGETS
    """The fields of which one says how long it trains."""
    reads: ClassVar[tuple[ArtefactKind, ...]] = ("tokens",)
    """What its data may be."""

    data: str | None = None
    """The tokens, or pictures, to train on: name of a stage, or a folder."""
    objective: ObjectiveMethod = Field(default="next-token", validate_default=True)
    """What the model learns to do."""
    optimizer: Optimizer = Field(default="adamw", validate_default=True)
    """How weights follow gradients."""
    schedule: ScheduleMethod = Field(default="warmup-cosine", validate_default=True)
    """The learning rate over time."""
    batch_size: PositiveInt = 64
    """Sequences, or pictures, per optimizer step, over all processes."""
    seq_length: PositiveInt = 256
    """Tokens per sequence of text."""
    chunk_length: PositiveInt | None = None
    """Tokens of the pieces that are shuffled; the longest `seq_length` of the stages that continue this model, so
    that they read on exactly where this one stops. Default: `seq_length`."""
    respect_documents: bool = False
    """Keep packed documents apart: attention stays within each, positions start anew."""
    steps: PositiveInt | None = None
    """Budget in optimizer steps."""
    tokens: PositiveInt | None = None
    """Budget in tokens; of pictures, in patches."""
    flops: PositiveFloat | None = None
    """Budget in FLOPs."""
    flops_of: tuple[str, ...] = ()
    """Budget: what the named stages cost, in measured FLOPs."""
    sweep: Sweep | None = None
    """Try several learning rates first. Its cost is recorded apart from that of the training."""
    validation_tokens: PositiveInt = 65_536
    """Held-out tokens, or patches, on which the model is evaluated."""
    watch: tuple[str, ...] = ()
    """Other tokens, or pictures, whose held-out part is scored beside, along the way: what the model must not
    forget."""
    engine: EngineOptions = Field(default={}, validate_default=True)
    """How the run is carried out: precision, compile, micro_batches, clip, ema, evaluate_every ..."""
    seed: NonNegativeInt | None = None
    """Seed of initialisation, data order, dropout and corruption. Default: the recipe's."""

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, values: Any) -> Any:
        """Let `tokens: 1.6e6` be a whole number, and one name stand for a list."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for key in ("tokens", "steps"):
            if isinstance(values.get(key), float) and values[key].is_integer():
                values[key] = int(values[key])
        for key in ("flops_of", "watch"):
            if isinstance(values.get(key), str):
                values[key] = (values[key],)
        return values

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [name for name in self.budgets if getattr(self, name)]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"a budget is one of {', '.join(self.budgets)}; found {found}")
        if self.chunk_length is not None and self.chunk_length < self.seq_length:
            raise ValueError(f"chunk_length {self.chunk_length} must not be below seq_length {self.seq_length}")
        if self.sweep and "learning_rate" not in type(self.optimizer).model_fields:
            raise ValueError(f"{self.optimizer.method} has no learning_rate to sweep")
        return self

    def needs(self) -> tuple[Need, ...]:
        kind, *also = self.reads
        needs = [Need("data", kind, (self.data,) if self.data else (), also=tuple(also))]
        if self.flops_of:
            needs.append(Need("flops_of", "model", self.flops_of))
        if self.watch:
            needs.append(Need("watch", kind, self.watch, also=tuple(also)))
        return tuple(needs)

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        values.pop("watch", None)  # empty, or an input
        return values

    @property
    def tokens_per_step(self) -> int:
        """Tokens of text in one optimizer step."""
        return self.batch_size * self.seq_length

    def forecast(
        self,
        view: View,
        model: PreTrainedModel | None,
        source: Mapping[str, Any] | None = None,
        *,
        beside: float = 0.0,
    ) -> Forecast:
        """Check a model (on the meta device) against data and methods; say what training it takes.

        Args:
            source: what is known of a model that is trained on.
            beside: FLOPs per token of what runs beside the model.
        """
        from pomona import anatomy
        from pomona.stages import fitting, main_line

        objective = fitting.objective_for(
            view, self.objective, seq_length=self.seq_length, respect_documents=self.respect_documents
        )
        if model is None:
            return Forecast()
        known: dict[str, Any] = {"model": model, "objective": self.objective, "seq_length": self.seq_length}
        try:
            body = anatomy.of(model)
        except PomonaError as error:
            view.problem("model", str(error))
            return Forecast(known=known)
        sequences = fitting.sequences_of(view, body, self.seq_length)
        if sequences is None:
            return Forecast(known=known)
        known["seq_length"], step_tokens = sequences.tokens, self.batch_size * sequences.tokens
        if objective is not None and not fitting.check_model(view, objective, body, training=True):
            return Forecast(known=known)
        if objective is not None:
            fitting.check_curvature(view, self.optimizer, objective)
        train_tokens = fitting.train_tokens(view, sequences)
        self._check_sizes(view, body, train_tokens, step_tokens)
        trained = [body, *(each for each in body.companions if isinstance(each, anatomy.Anatomy))]
        per_token = sum(each.flops_per_token(sequences.length, training=True) for each in trained) + beside
        step_flops = per_token * self.batch_size * sequences.length
        steps = self._steps(step_flops, view.flops("flops_of"), step_tokens)
        line = main_line.line_of(self.schedule, (source or {}).get("facts", source or {}))
        main_line.check(self, line, view)
        if steps is not None:
            try:
                schedule = main_line.build(self.schedule, line, steps)
                known["main_line"] = main_line.described(schedule, steps, self.optimizer, self.sweep is not None)
                if self.sweep is not None:
                    main_line.build(self.schedule, line, self.pilot_steps(steps))  # a pilot needs room for it too
            except PomonaError as error:
                view.problem("schedule", str(error))
        note, remark = f"{self.optimizer.method}, {self.schedule.method}", ""
        if self.engine.compile == "always":  # type: ignore[attr-defined]
            from pomona.stages.probe import COMPILED

            note, remark = f"{note}, compiled", str(COMPILED)
        if steps is None:
            return Forecast(parameters=body.parameter_count(), note=note, known=known)
        work = steps
        if self.sweep:
            work += len(self.sweep.learning_rate) * self.pilot_steps(steps)
            note += f", {len(self.sweep.learning_rate)} pilots"
        tokens = steps * step_tokens
        if train_tokens is not None and tokens > 1.5 * train_tokens:
            note += f", {tokens / train_tokens:.1f} epochs"
        return Forecast(
            tokens=tokens,
            parameters=body.parameter_count(),
            flops=steps * step_flops,
            note=note,
            remark=remark,
            known={**known, "work_tokens": work * step_tokens},
        )

    def _check_sizes(self, view: View, body: Anatomy, train_tokens: int | None, step_tokens: int) -> None:
        """Report sequences, vocabularies and batches that are too large for model or data, and what pictures lack."""
        from pomona.stages.fitting import pictures_of, vocab_size_of

        if train_tokens is not None and train_tokens < step_tokens:
            what, do = "tokens, the corpus has", "use more text, a smaller batch_size or a shorter seq_length"
            if pictures_of(view) is not None:
                what, do = "patches, the pictures have", "use more pictures or a smaller batch_size"
            view.problem("batch_size", f"one batch is {step_tokens:,} {what} {train_tokens:,}", do)
        if pictures_of(view) is not None:
            if self.respect_documents:
                view.problem("respect_documents", "pictures are no documents", "leave it out")
            return
        if body.max_positions is not None and self.seq_length > body.max_positions:
            view.problem(
                "seq_length",
                f"{self.seq_length} tokens are more than the model's {body.max_positions} positions",
                f"give the model max_position_embeddings: {self.seq_length}, or shorten the sequences",
            )
        vocab_size = vocab_size_of(view)
        if vocab_size is not None and vocab_size > body.vocab_size:
            view.problem(
                "data",
                f"the tokens need a vocabulary of {vocab_size}, the model has {body.vocab_size}",
                "tokenize with the model's tokenizer, give the model a larger vocab_size, or let `continue` add what "
                "is missing (new_tokens: add)",
            )

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        from pomona.stages.fitting import pictures_of, tokenizer_of
        from pomona.stages.probe import compiled_seconds, training_rate

        model, tokens = forecast.known.get("model"), forecast.known.get("work_tokens")
        reads = pictures_of(view) or tokenizer_of(view)
        if model is None or tokens is None or reads is None:
            return None
        seconds = tokens / training_rate(model.config, self, reads)
        runs = 1 + (len(self.sweep.learning_rate) if self.sweep else 0)
        return compiled_seconds(seconds, runs, self.engine.compile)  # type: ignore[attr-defined]

    def _steps(self, flops_per_step: float, flops_of: float | None, step_tokens: int | None = None) -> int | None:
        """Optimizer steps that the budget allows; None where what it refers to is not known.

        Args:
            flops_per_step: of training; what the optimizer's estimates of curvature cost comes on top.
            step_tokens: default: as of text.
        """
        if self.steps is not None:
            return self.steps
        if self.tokens is not None:
            return max(1, round(self.tokens / (step_tokens or self.tokens_per_step)))
        budget = self.flops if self.flops is not None else flops_of
        if (curvature := getattr(self.optimizer, "curvature", None)) is not None:
            flops_per_step *= 1.0 + curvature.passes_per_step
        return None if budget is None else max(1, round(budget / flops_per_step))

    def pilot_steps(self, steps: int) -> int:
        """Steps of a pilot."""
        assert self.sweep is not None
        return max(1, round(self.sweep.pilot * steps))

    def pilot(self, rate: float, steps: int) -> Self:
        """The same stage, much shorter, at one learning rate."""
        budget = {"steps": steps, "tokens": None, "flops": None, "flops_of": (), "sweep": None, "name": None}
        return self.model_copy(update={**budget, "optimizer": with_rate(self.optimizer, rate)})

    def budget_in_steps(self, job: Job, flops_per_step: float, step_tokens: int | None = None) -> int:
        """Optimizer steps that the budget allows, from measured FLOPs."""
        from pomona.stages.base import ledger_flops

        flops_of = sum(ledger_flops(artefact.ledger()) for artefact in job.inputs.get("flops_of", ()))
        steps = self._steps(flops_per_step, flops_of, step_tokens)
        assert steps is not None
        return steps


def with_rate(optimizer: MethodConfig, rate: float) -> MethodConfig:
    """The optimizer at another peak rate."""
    return optimizer.model_copy(update={"learning_rate": rate})
