"""`tokenize`: a tokenizer, trained on the corpus or taken from elsewhere, and the corpus as token shards."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from pomona.ground.errors import ConfigError, DataError
from pomona.ground.files import MANIFEST, content_hash, file_hash
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View
from pomona.stages.places import place_of

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
    """A tokenizer that exists, instead: a folder, one in a Python package (`package:NAME/PATH`), or a name on the
    Hugging Face hub."""
    like: str | None = None
    """Tokens whose tokenizer is taken, instead: name of a stage, or a folder. For models that read several corpora."""
    mask_token: str | None = None
    """A special token that stands for hidden ones, such as `<mask>`. A tokenizer that is taken gets it too."""
    sentinels: NonNegativeInt = 0
    """How many special tokens `<extra_id_0>`, `<extra_id_1>`, ... there are for span corruption."""
    pad_token: str | None = None
    """A special token for padding. Default, where the tokenizer is trained here: `<|pad|>` beside a mask token or
    sentinels, whose models tell padding from text by this token; otherwise the end of a text also pads."""
    special_tokens: tuple[str, ...] = ()
    """Further special tokens. A model that exists has no embeddings for new ones, unless `continue` makes them
    (`new_tokens: add`)."""

    @model_validator(mode="after")
    def _one_tokenizer(self) -> Self:
        if sum(value is not None for value in (self.vocab_size, self.tokenizer, self.like)) != 1:
            raise ValueError("give one of vocab_size (to train a tokenizer), tokenizer and like (to take one)")
        return self

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("from", "corpus", (self.from_,) if self.from_ else ()),
            Need("like", "tokens", (self.like,) if self.like else (), default="none", optional=True),
        )

    def outside(self) -> Any:
        if self.tokenizer is None:
            return None
        try:
            folder = place_of(self.tokenizer)
        except DataError:
            return None  # the plan says so
        if not folder.is_dir():
            return None
        return content_hash({file.name: file_hash(file) for file in folder.iterdir() if file.is_file()})

    def plan(self, view: View) -> Forecast:
        note = self.tokenizer or (f"as {self.like}" if self.like else "byte-level BPE")
        if view.made:
            return Forecast(note=note)
        if self.like is not None:
            return self._plan_taking(view, note)
        if self.tokenizer is None:
            return self._plan_training(view)
        from pomona.data.tokenizer import vocabulary_size
        from pomona.stages.models import load_tokenizer

        try:
            tokenizer = load_tokenizer(self.tokenizer)
        except DataError as error:
            view.problem("tokenizer", error.what, error.found or "")
            return Forecast(note=self.tokenizer)
        extended = self._extended(tokenizer, view)
        known = {"vocab_size": vocabulary_size(extended), "tokenizer": lambda: extended}
        return Forecast(known=known, note=self.tokenizer)

    def _plan_taking(self, view: View, note: str) -> Forecast:
        from pomona.stages.fitting import tokenizer_of, vocab_size_of

        size, tokenizer = vocab_size_of(view, "like"), tokenizer_of(view, "like")
        if size is None or tokenizer is None:
            return Forecast(note=note)
        extended = self._extended(tokenizer, view)
        known = {"vocab_size": size + len(extended) - len(tokenizer), "tokenizer": lambda: extended}
        return Forecast(known=known, note=note)

    def _extended(self, tokenizer: PreTrainedTokenizerBase, view: View) -> PreTrainedTokenizerBase:
        """A taken tokenizer with the special tokens asked for; a problem where it has others."""
        from pomona.data.tokenizer import with_special_tokens

        try:
            return with_special_tokens(tokenizer, **self._special())
        except ConfigError as error:
            view.problem("tokenizer" if self.tokenizer else "like", str(error))
            return tokenizer

    def _plan_training(self, view: View) -> Forecast:
        from pomona.data.tokenizer import require_room, untrained_tokenizer

        assert self.vocab_size is not None
        special = self._special()
        try:
            require_room(self.vocab_size, **special)
        except ConfigError as error:
            view.problem("vocab_size", error.what, f"needs {error.needs}")
        known = {"vocab_size": self.vocab_size, "tokenizer": lambda: untrained_tokenizer(**special)}
        return Forecast(known=known, note="byte-level BPE")

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        from pomona.data.estimate import tokenize_seconds

        facts = view.known("from", "facts")
        if facts is not None:
            text_bytes = sum(split["bytes"] for split in facts["splits"].values())
        else:
            size = view.known("from", "size")
            guess = size() if size else None
            if guess is None:
                return None
            text_bytes = guess.text_bytes
        return tokenize_seconds(text_bytes, train=self.vocab_size is not None)

    def make(self, job: Job) -> Made:
        from pomona.data import Corpus, make_tokens

        corpus = Corpus.open(job.input("from").folder)
        tokens = make_tokens(corpus, self._tokenizer(corpus, job), job.work / "tokens")
        if tokens.train.count == 0:
            raise DataError("the corpus has no text to train on", where=str(corpus.folder))
        for file in tokens.folder.iterdir():
            if file.name != MANIFEST:
                shutil.move(file, job.folder / file.name)
        counts = {"train_tokens": tokens.train.count, "validation_tokens": tokens.validation.count}
        note = f"{tokens.train.count / 1e6:.2f}M tokens to train on, vocabulary {tokens.vocab_size:,}"
        return Made({**tokens.facts, **counts, "note": note})

    def _tokenizer(self, corpus: Corpus, job: Job) -> PreTrainedTokenizerBase:
        from pomona.data import Tokens, train_tokenizer
        from pomona.data.tokenizer import with_special_tokens
        from pomona.stages.models import load_tokenizer

        if self.vocab_size is not None:
            return train_tokenizer(corpus, vocab_size=self.vocab_size, **self._special())
        if self.like is not None:
            return with_special_tokens(Tokens.open(job.input("like").folder).tokenizer, **self._special())
        assert self.tokenizer is not None
        return with_special_tokens(load_tokenizer(self.tokenizer), **self._special())

    def _special(self) -> dict[str, Any]:
        """The special tokens asked for, and padding where a tokenizer is trained here that needs a token for it."""
        from pomona.data.tokenizer import PADDING, sentinel

        sentinels = [sentinel(number) for number in range(self.sentinels)]
        pad_token = self.pad_token
        if self.vocab_size is not None and (sentinels or self.mask_token):
            pad_token = pad_token or PADDING
        return {
            "special_tokens": (*sentinels, *self.special_tokens),
            "mask_token": self.mask_token,
            "pad_token": pad_token,
        }
