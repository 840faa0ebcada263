"""What a training stage is given to read, opened: text or pictures, the same to everything that trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pomona.data import ImageBatches, ImageFolder, ImageStream, Tokens, TokenStream, validation_batches
from pomona.data.processor import image_processor
from pomona.engine import Batch
from pomona.engine.fit import Stream
from pomona.engine.protocols import size_of
from pomona.ground.errors import ConfigError
from pomona.ground.ranks import world_size
from pomona.objectives.reading import ReadingMethod
from pomona.stages.base import Artefact
from pomona.stages.training import TrainingStage

Read = list[tuple[int, int, int]]
"""What a model has been trained on: (steps, batch_size, tokens of each sequence) of each run over the same data in one
order."""


class Material(Protocol):
    """Data of a training stage."""

    @property
    def tokenizer(self) -> Any:
        """What an objective is built with; None where there are no tokens."""
        ...

    @property
    def token_bytes(self) -> Tensor | None:
        """(V,) UTF-8 bytes of each token, where losses are told in bits per byte."""
        ...

    def require(self, model: PreTrainedModel) -> None:
        """Raise `ConfigError` unless the model can read it."""
        ...

    def require_alike(self, other: Material, name: str, own: str) -> None:
        """Raise `ConfigError` unless what reads this reads the other too; `name` and `own` are their names."""
        ...

    def preparer(self, model: PreTrainedModel) -> Any:
        """What makes a model's inputs, saved beside it: a tokenizer or a processor of pictures."""
        ...

    def stream(self, stage: TrainingStage, seed: int, earlier: Read) -> Stream:
        """The stage's batches, after what earlier runs over the same data have read."""
        ...

    def chosen_by(self, objective: ReadingMethod, stage: TrainingStage, steps: int, seed: int) -> Stream:
        """The batches of an objective that decides itself what is read; they begin anew."""
        ...

    def length(self, stage: TrainingStage, rows: Batch) -> int:
        """Tokens of a sequence, or patches of a picture, of which `rows` is a prepared batch."""
        ...

    def held_out(self, stage: TrainingStage, length: int) -> Sequence[Batch]:
        """The held-out batches of a stage; none where nothing was set aside."""
        ...


def material_of(artefact: Artefact) -> Material:
    """What a stage was given, opened."""
    if artefact.kind == "images":
        return Pictures(ImageFolder.open(artefact.folder))
    return Text(Tokens.open(artefact.folder))


@dataclass(frozen=True)
class Text:
    """Tokens."""

    tokens: Tokens

    @property
    def tokenizer(self) -> Any:
        return self.tokens.tokenizer

    @cached_property
    def token_bytes(self) -> Tensor:
        return torch.from_numpy(self.tokens.token_bytes)

    def require(self, model: PreTrainedModel) -> None:
        self.tokens.require_vocabulary(model.config.vocab_size)

    def require_alike(self, other: Material, name: str, own: str) -> None:
        if not isinstance(other, Text) or other.tokens.facts["tokenizer"] != self.tokens.facts["tokenizer"]:
            raise ConfigError(
                f"{name} was made with another tokenizer than the tokens that are trained on",
                do=f"tokenize it with `like: {own}`",
            )

    def preparer(self, model: PreTrainedModel) -> Any:
        return self.tokens.tokenizer

    def stream(self, stage: TrainingStage, seed: int, earlier: Read) -> Stream:
        runs = [*earlier, (0, stage.batch_size, stage.seq_length)]
        ends = [sum(steps for steps, _, _ in runs[: index + 1]) for index in range(len(runs) - 1)]

        def run_at(step: int) -> tuple[int, int, int]:
            return runs[sum(step >= end for end in ends)]

        lengths = {length for _, _, length in runs}
        sizes = {size for _, size, _ in runs}
        stream = TokenStream(
            self.tokens.train,
            batch_size=stage.batch_size if len(sizes) == 1 else lambda step: run_at(step)[1],
            seq_length=stage.seq_length if len(lengths) == 1 else lambda step: run_at(step)[2],
            longest=max(*lengths, stage.chunk_length or 0),
            seed=seed,
            world_size=world_size(),
            respect_documents=stage.respect_documents,
        )
        return Later(stream, ends[-1]) if ends else stream

    def chosen_by(self, objective: ReadingMethod, stage: TrainingStage, steps: int, seed: int) -> Stream:
        return objective.stream(
            self.tokens,
            steps=steps,
            batch_size=stage.batch_size,
            seq_length=stage.seq_length,
            seed=seed,
            world_size=world_size(),
        )

    def length(self, stage: TrainingStage, rows: Batch) -> int:
        return stage.seq_length

    def held_out(self, stage: TrainingStage, length: int) -> Sequence[Batch]:
        if self.tokens.validation.count <= stage.seq_length:
            require_held_out(stage, 0)
            return ()
        return validation_batches(
            self.tokens.validation,
            batch_size=min(stage.batch_size, 16),
            seq_length=stage.seq_length,
            limit_tokens=stage.validation_tokens,
            respect_documents=stage.respect_documents,
        )


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size."""

    images: ImageFolder
    tokenizer: None = None
    token_bytes: None = None

    def require(self, model: PreTrainedModel) -> None:
        """Nothing to ask: what the plan has compared was known before the pictures were made."""

    def require_alike(self, other: Material, name: str, own: str) -> None:
        pictures = self.images.facts["pictures"]
        if not isinstance(other, Pictures) or other.images.facts["pictures"] != pictures:
            raise ConfigError(
                f"{name} is no set of pictures of {' x '.join(map(str, pictures))}, as those that are trained on",
                do=f"make it with the `size` and `channels` of {own}",
            )

    def preparer(self, model: PreTrainedModel) -> Any:
        channels, size, _ = self.images.facts["pictures"]
        return image_processor(model.config, size, channels)

    def stream(self, stage: TrainingStage, seed: int, earlier: Read) -> Stream:
        return ImageStream(
            self.images.side("train"),
            batch_size=stage.batch_size,
            seed=seed,
            world_size=world_size(),
            first=sum(steps * size for steps, size, _ in earlier),
        )

    def chosen_by(self, objective: ReadingMethod, stage: TrainingStage, steps: int, seed: int) -> Stream:
        raise ConfigError(f"{stage.objective.method} chooses documents, pictures are none")

    def length(self, stage: TrainingStage, rows: Batch) -> int:
        return size_of(rows)[1]

    def held_out(self, stage: TrainingStage, length: int) -> Sequence[Batch]:
        require_held_out(stage, self.images.facts["validation"])
        limit = max(1, stage.validation_tokens // length)
        return ImageBatches(self.images.side("validation"), batch_size=min(stage.batch_size, 64), limit=limit)


@dataclass(frozen=True)
class Later:
    """A stream from a later step on."""

    stream: TokenStream
    skip: int

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        return self.stream.batch(step + self.skip, rank, micro_batches=micro_batches)


def require_held_out(stage: TrainingStage, count: int) -> None:
    """Raise `ConfigError` where rates are to be chosen on what is held out, and nothing is."""
    if stage.sweep is not None and not count:
        raise ConfigError("a sweep needs held-out data", do="set `validation` of what is trained on above 0")
