"""What a corpus, or a set of pictures, is made of, as a recipe says it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pomona.ground.config import Config
from pomona.ground.errors import did_you_mean

ENVIRONMENTS = ("env:docs", "env:code", "env:pairs", "env:facts")
GLYPHS = "env:glyphs"
"""The name of the pictures that need no download."""


class SourceConfig(Config):
    """One source of documents. A plain string stands for its path: `env:docs` is `{path: "env:docs"}`."""

    path: str = Field(min_length=1)
    """`env:docs`, `env:code`, `env:pairs`, `env:facts`, `hub:DATASET[/CONFIG]`, a file, a folder or a glob."""
    text: str = "text"
    """The field (JSONL) or column (parquet, hub) that holds the text."""
    metadata: tuple[str, ...] = ()
    """Fields or columns that are kept as metadata of each document."""
    on_bad_lines: Literal["error", "skip"] = "error"
    """What to do with a line that is not valid UTF-8 or not valid JSON: stop and name it, or skip and count it."""
    include: tuple[str, ...] = ()
    """Globs over paths relative to the folder (or to site-packages); empty means every file of a known type."""
    exclude: tuple[str, ...] = ()
    """Globs over relative paths that are left out."""
    split: str = "train"
    """The split of a hub dataset that is read."""

    @field_validator("path")
    @classmethod
    def _known_environment(cls, value: str) -> str:
        if value.startswith("env:") and value not in ENVIRONMENTS:
            raise ValueError(f"is no embedded corpus; {did_you_mean(value, ENVIRONMENTS)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class CorpusConfig(Config):
    """Sources, and what is done to their documents. A string or a list of them stands for the sources."""

    sources: tuple[SourceConfig, ...]
    """Where documents come from, in this order."""
    near_duplicates: Annotated[float, Field(ge=0.5, le=1)] | None = 0.8
    """Documents whose 3-word shingles have at least this Jaccard similarity with an earlier one are left out."""
    validation: float = Field(default=0.02, ge=0, lt=1)
    """The fraction of documents that is set aside, chosen by the hash of each document."""
    min_bytes: int = Field(default=128, ge=1)
    """Shorter documents (UTF-8 bytes) are left out."""
    max_bytes: int = Field(default=65536, ge=1024)
    """Longer documents are cut, at a blank line where there is one."""
    seed: int = 0
    """Another seed, another choice of validation documents."""

    @field_validator("sources")
    @classmethod
    def _some_source(cls, value: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
        if not value:
            raise ValueError("names no source")
        return value

    @model_validator(mode="before")
    @classmethod
    def _from_sources(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"sources": (value,)}
        if isinstance(value, list | tuple):
            return {"sources": value}
        if isinstance(value, dict) and isinstance(value.get("sources"), str):
            return {**value, "sources": (value["sources"],)}
        return value


class ImagesConfig(Config):
    """Pictures, how large they are made, and how they are divided. A string stands for the source."""

    source: str = Field(min_length=1)
    """A folder of pictures, whose sub-folders are the labels, or `env:glyphs`: letters and digits that are drawn."""
    size: int = Field(ge=1)
    """Pixels of an edge. Of a picture that is no square, the middle is taken."""
    channels: Literal[1, 3] = 3
    """3 for colours, 1 for grey."""
    count: int | None = Field(default=None, ge=1)
    """At most so many pictures, in the order of their names; glyphs need it. Default: all."""
    shots: int | None = Field(default=None, ge=1)
    """Keep so many pictures of each label to train on, to learn from few labels; what is held out stays whole, and the
    smaller choice is part of the larger one. Default: all."""
    validation: float = Field(default=0.1, ge=0.0, lt=1.0)
    """The share that is set aside for the held-out loss, and for choosing: learning rates, ranks."""
    test: float = Field(default=0.2, ge=0.0, lt=1.0)
    """The share that is set aside for the accuracy that is told in the end; 0: it is told on the validation part."""
    seed: int = 0
    """Another seed, another division."""

    @field_validator("source")
    @classmethod
    def _known_pictures(cls, value: str) -> str:
        if value.startswith("env:") and value != GLYPHS:
            raise ValueError(f"is no set of pictures; {did_you_mean(value, (GLYPHS,))}")
        return value

    @model_validator(mode="after")
    def _something_left(self) -> Self:
        if self.validation + self.test >= 1.0:
            raise ValueError("validation and test leave nothing to train on")
        return self

    @model_validator(mode="before")
    @classmethod
    def _from_source(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value
