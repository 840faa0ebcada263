"""`tokenize`: a tokenizer, trained on the corpus or taken from elsewhere, and the corpus as token shards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, PositiveInt, model_validator

from pomona.ground.errors import DataError
from pomona.ground.files import MANIFEST, content_hash, file_hash
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pomona.data import Corpus


class TokenizeStage(Stage):
    """Train a byte-level BPE, or take a tokenizer, and turn the corpus into tokens."""

    verb = "tokenize"
    makes: ClassVar[ArtefactKind] = "tokens"

    from_: str | None = Field(default=None, alias="from")
    """The corpus: name of a stage, or a folder."""
    vocab_size: PositiveInt | None = None
    """Tokens of the byte-level BPE that is trained on the corpus."""
    tokenizer: str | None = None
    """A tokenizer that exists, instead: a folder, or a name on the Hugging Face hub."""
    mask_token: str | None = None
    """A special token for masked language modelling."""
    special_tokens: tuple[str, ...] = ()
    """Further special tokens, such as the sentinels of span corruption."""

    @model_validator(mode="after")
    def _one_tokenizer(self) -> Self:
        if (self.vocab_size is None) == (self.tokenizer is None):
            raise ValueError("give one of vocab_size (to train a tokenizer) and tokenizer (to take one)")
        if self.tokenizer is not None and (self.mask_token or self.special_tokens):
            raise ValueError("mask_token and special_tokens are for a tokenizer that is trained here")
        return self

    def needs(self) -> tuple[Need, ...]:
        return (Need("from", "corpus", (self.from_,) if self.from_ else ()),)

    def outside(self) -> Any:
        if self.tokenizer is None or not Path(self.tokenizer).is_dir():
            return None
        return content_hash({file.name: file_hash(file) for file in Path(self.tokenizer).iterdir() if file.is_file()})

    def plan(self, view: View) -> Forecast:
        if self.tokenizer is not None and "/" in self.tokenizer and not _is_hub_name(self.tokenizer):
            folder = Path(self.tokenizer)
            if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer_config.json").is_file():
                view.problem("tokenizer", f"{folder} is not a tokenizer", "a folder with tokenizer.json")
        facts = view.known("from", "facts") or {}
        size = facts.get("splits", {}).get("train", {}).get("bytes")
        note = "byte-level BPE" if self.tokenizer is None else self.tokenizer
        return Forecast(known={"vocab_size": self.vocab_size, "bytes": size}, note=note)

    def make(self, job: Job) -> Made:
        from pomona.data import Corpus, make_tokens

        corpus = Corpus.open(job.input("from").folder)
        tokens = make_tokens(corpus, self._tokenizer(corpus), job.work / "tokens")
        if tokens.train.count == 0:
            raise DataError("the corpus has no text to train on", where=str(corpus.folder))
        for file in tokens.folder.iterdir():
            if file.name != MANIFEST:
                shutil.move(file, job.folder / file.name)
        counts = {"train_tokens": tokens.train.count, "validation_tokens": tokens.validation.count}
        note = f"{tokens.train.count / 1e6:.2f}M tokens to train on, vocabulary {tokens.vocab_size:,}"
        return Made({**tokens.facts, **counts, "note": note})

    def _tokenizer(self, corpus: Corpus) -> PreTrainedTokenizerBase:
        from pomona.data import train_tokenizer

        if self.vocab_size is not None:
            return train_tokenizer(
                corpus,
                vocab_size=self.vocab_size,
                mask_token=self.mask_token,
                special_tokens=self.special_tokens,
            )
        from pomona.stages.models import load_tokenizer

        assert self.tokenizer is not None
        return load_tokenizer(self.tokenizer)


def _is_hub_name(name: str) -> bool:
    """`owner/model`, and not a path."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()
