"""`select`: keep the part of a corpus that is worth training on."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from pomona.catalog import Selection
from pomona.ground.errors import PomonaError
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pomona.data import Tokens
    from pomona.selection import Role, SelectionConfig
    from pomona.stages.base import Artefact

TEXTS = "kept.jsonl"


class SelectStage(Stage):
    """Keep the chunks of a corpus that a method scores highest; held-out text stays whole."""

    verb = "select"
    makes: ClassVar[ArtefactKind] = "tokens"
    flat = "method"

    data: str | None = None
    """The tokens to choose from: name of a stage, or a folder."""
    method: Selection = Field(default="miniplm", validate_default=True)
    """How chunks are scored; the method's own parameters stand beside it."""
    teacher: str | None = None
    """A good causal model of the same tokens: name of a stage, or a folder."""
    reference: str | None = None
    """A small one to compare it with, trained on other text than what is scored."""
    chunk_length: PositiveInt = 1024
    """Predicted tokens of a chunk, which is kept or dropped as a whole."""
    precision: Literal["fp32", "auto"] = "fp32"
    """Format of the models' matrix products; `auto`: bfloat16 where the hardware multiplies it fast."""
    batch_size: PositiveInt = 16
    """Chunks of a pass; changes nothing but memory and speed."""
    texts: bool = False
    """Write the kept text into `kept.jsonl` too, from which a corpus for another tokenizer can be made."""
    silent: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    @model_validator(mode="after")
    def _models_that_are_asked(self) -> Self:
        for role in ("teacher", "reference"):
            if getattr(self, role) is not None and role not in self._method.roles:
                raise ValueError(f"{self.method.method} does not ask a {role}")
            if getattr(self, role) is None and role in self._method.roles:
                raise ValueError(f"{self.method.method} needs a {role}: name of a stage, or a folder of a model")
        return self

    @property
    def _method(self) -> SelectionConfig:
        return self.method  # type: ignore[return-value]

    def needs(self) -> tuple[Need, ...]:
        models = (Need(role, "model", (str(getattr(self, role)),)) for role in self._method.roles)
        return (Need("data", "tokens", (self.data,) if self.data else ()), *models)

    def plan(self, view: View) -> Forecast:
        from pomona import anatomy
        from pomona.selection.likelihood import check_scorer
        from pomona.stages import models
        from pomona.stages.fitting import tokenizer_of, vocab_size_of

        flops, known_tokens = 0.0, (view.known("data", "facts") or {}).get("train_tokens")
        vocab_size = vocab_size_of(view)
        for role in self._method.roles:
            model = models.expected(view, role)
            if model is None:
                continue
            try:
                body = anatomy.of(model)
                check_scorer(body, self.chunk_length, role)
            except PomonaError as error:
                view.problem(role, str(error))
                continue
            if vocab_size is not None and vocab_size > body.vocab_size:
                view.problem(role, f"the tokens need a vocabulary of {vocab_size}, the {role} has {body.vocab_size}")
            flops += body.flops_per_token(self.chunk_length, training=False) * (known_tokens or 0)
        note = f"{self.method.method}, {self._method.ratio:g} of the chunks"
        known = {"vocab_size": vocab_size, "tokenizer": lambda: tokenizer_of(view)}
        return Forecast(flops=flops or None, note=note, known=known)

    def make(self, job: Job) -> Made:
        import numpy as np

        from pomona.data import Tokens
        from pomona.data.subset import write_subset
        from pomona.engine import Ledger
        from pomona.ground.errors import DataError
        from pomona.selection import Chunks, keep_highest
        from pomona.stages.score import ScoreStage, nats_in

        tokens, ledger = Tokens.open(job.input("data").folder), Ledger()
        chunks = Chunks(tokens.train.count, self.chunk_length)
        if not len(chunks):
            raise DataError("there is nothing to select from", where=str(tokens.folder))
        scored: dict[Role, Artefact] = {}
        for role in self._method.roles:
            self._require_same_tokens(tokens, job.input(role))
            score = ScoreStage(
                role=role, chunk_length=self.chunk_length, precision=self.precision, batch_size=self.batch_size
            )
            scored[role] = job.run(score, f"{job.name}-{role}")
            ledger.merge(Ledger.from_dict(scored[role].ledger()))
        self._warn(job, scored)
        nats = {role: nats_in(artefact) for role, artefact in scored.items()}
        scores = self._method.scores(nats, len(chunks))
        kept = keep_highest(scores, self._method.ratio)
        facts = write_subset(tokens, (chunks.span(int(number)) for number in kept), job.folder)
        scores.astype("<f8").tofile(job.folder / "scores.f64")
        np.asarray(kept, dtype="<i8").tofile(job.folder / "kept.i64")
        for role, values in nats.items():
            values.tofile(job.folder / f"{role}.f32")
        counts = {f"{split}_tokens": facts["splits"][split]["tokens"] for split in ("train", "validation")}
        note = f"{len(kept):,} of {len(chunks):,} chunks, {counts['train_tokens'] / 1e6:.2f}M tokens"
        if self.texts:
            write_texts(Tokens(job.folder, facts), job.folder / TEXTS)
        return Made({**facts, **counts, "chunks": len(chunks), "kept": len(kept), "note": note}, ledger)

    def _require_same_tokens(self, tokens: Tokens, model: Artefact) -> None:
        """Refuse a model with another tokenizer, whose likelihoods would be of other text."""
        from pomona.data.tokenizer import tokenizer_hash
        from pomona.ground.errors import ConfigError
        from pomona.stages.models import load_tokenizer

        if not any((model.folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            return
        if tokenizer_hash(load_tokenizer(model.folder)) != tokens.facts["tokenizer"]:
            raise ConfigError(
                f"{model.name} reads other tokens than those that are selected from",
                where=str(model.folder),
                do="tokenize the corpus with its tokenizer, select, and re-tokenize what is kept (`texts: true`)",
            )

    def _warn(self, job: Job, scored: Mapping[Role, Artefact]) -> None:
        """Say what makes a comparison of two models worthless."""
        from pomona.ground.console import warn

        for role in scored:
            read = job.input(role).facts.get("read") or {}
            if role == "reference" and read.get("data") == job.input("data").hash:
                warn("the reference was trained on the very tokens that it scores, and knows them by now")
        held_out = {role: artefact.facts.get("held_out") for role, artefact in scored.items()}
        teacher, reference = held_out.get("teacher"), held_out.get("reference")
        if teacher is not None and reference is not None and teacher >= reference:
            warn(
                f"the teacher is no better than the reference on held-out text ({teacher:.3f} and {reference:.3f} nats "
                "per token): their difference says little"
            )


def write_texts(tokens: Tokens, file: Path) -> None:
    """The train documents, or the parts of them that were kept, as text: one JSON object in a line."""
    import json

    import numpy as np

    from pomona.ground.files import atomic_file

    split, tokenizer = tokens.train, tokens.tokenizer
    ends = np.append(split.document_starts[1:], split.count)
    with atomic_file(file) as part, part.open("w", encoding="utf-8") as lines:
        for start, end in zip(split.document_starts, ends, strict=True):
            text = tokenizer.decode(split.tokens[int(start) : int(end)], skip_special_tokens=True)
            lines.write(json.dumps({"text": text}) + "\n")
