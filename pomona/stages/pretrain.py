"""`pretrain`: a new model, trained from scratch (or a model folder, trained on)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from pomona.catalog import Sparsity
from pomona.ground.errors import PomonaError
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, View
from pomona.stages.training import TrainingStage

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class PretrainStage(TrainingStage):
    """Train a new model from scratch."""

    verb = "pretrain"
    reads: ClassVar[tuple[ArtefactKind, ...]] = ("tokens", "images")
    later: ClassVar[frozenset[str]] = frozenset({"sparsity"})

    model: dict[str, Any] | str = Field(union_mode="left_to_right")
    """A description, `{shape: llama, hidden_size: 256, ...}` with any field of that configuration, or a folder. The
    vocabulary, or the size of pictures, is that of the data unless it is said."""

    sparsity: Sparsity | None = None
    """Train it sparse from the start: spdf, sltrain, or a method of `prune` that zeroes single weights without data."""

    @model_validator(mode="after")
    def _starts_sparse(self) -> Self:
        method = self.sparsity
        if method is not None and (not hasattr(method, "start_") or getattr(method, "needs_batches", False)):
            raise ValueError(f"{method.method} needs a trained model; `spdf`, `sltrain`, `magnitude` do not")
        if isinstance(self.model, str) and getattr(method, "from_scratch", False):
            raise ValueError(f"{method and method.method} starts from scratch, it cannot train a model folder on")
        return self

    def needs(self) -> tuple[Need, ...]:
        folder = (Need("model", "model", (self.model,)),) if isinstance(self.model, str) else ()
        return (*super().needs(), *folder)

    def plan(self, view: View) -> Forecast:
        from pomona.stages import models
        from pomona.stages.fitting import pictures_of, tokenizer_of, vocab_size_of

        try:
            if isinstance(self.model, str):
                return self.forecast(view, self._checked(models.expected(view, "model"), view), view.one("model").known)
            pictures = pictures_of(view)
            config = self._config(None if pictures else vocab_size_of(view), pictures)
            if pictures is None and (tokenizer := tokenizer_of(view)) is not None:
                models.adopt_special_tokens(config, tokenizer)
            model = models.create(config, self.objective, on_meta_device=True)
        except PomonaError as error:
            key = f"model.{error.where}" if error.where and isinstance(self.model, dict) else "model"
            view.problem(key, error.what, error.do or error.found or "")
            return Forecast()
        return self.forecast(view, self._checked(model, view))

    def _checked(self, model: PreTrainedModel | None, view: View) -> PreTrainedModel | None:
        """The model; a problem where it cannot be trained sparse."""
        from pomona import anatomy

        if model is not None and self.sparsity is not None:
            try:
                self.sparsity.check(anatomy.of(model))  # type: ignore[attr-defined]
            except PomonaError as error:
                view.problem("sparsity", str(error))
        return model

    def make(self, job: Job) -> Made:
        from pomona.data import Tokens
        from pomona.stages import models
        from pomona.stages.train import train

        if isinstance(self.model, str):
            source = job.input("model")
            return train(self, job, models.load(source.folder), source)
        data = job.input("data")
        if data.kind == "images":
            config = self._config(None, data.facts["pictures"])
        else:
            tokens = Tokens.open(data.folder)
            config = self._config(tokens.vocab_size)
            models.adopt_special_tokens(config, tokens.tokenizer)
        return train(self, job, models.create(config, self.objective, seed=job.seed))

    def _config(self, vocab_size: int | None, pictures: Sequence[int] | None = None) -> PretrainedConfig:
        from pomona.stages import models

        assert isinstance(self.model, dict)
        if pictures is None:
            return models.config_from(self.model, vocab_size)
        return models.config_from(self.model, num_channels=pictures[0], image_size=pictures[1])
