"""What labelled data are made of, as a recipe says it."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, PositiveInt, model_validator

from pomona.data.config import SourceConfig
from pomona.ground.config import Config


class LabelledSource(SourceConfig):
    """One source of (text, label). A plain string stands for its path.

    JSONL, parquet, CSV, TSV and hub datasets have a column for each. In a folder of text files the label is the name of
    the sub-folder. Of the Python environment (`env:docs`, `env:code`, `env:pairs`) the label is the package, and the
    text does not begin with the name of the module; `env:pairs` gives docstrings alone.
    """

    label: str | None = None
    """The column that holds the label. Default: `label`, or as said above where there are no columns."""
    group: str | None = None
    """A column whose equal values stay on one side of the split. Default: none; `module` in the environment."""


class ExamplesConfig(Config):
    """Sources of labelled text, which labels are kept, and how they are divided."""

    sources: tuple[LabelledSource, ...]
    """Where examples come from. A string or a list of them stands for the sources."""
    classes: PositiveInt | None = Field(default=None, ge=2)
    """Keep the labels with the most examples, so many of them. Default: all."""
    per_class: PositiveInt | None = None
    """Keep at most so many examples of each label, over all sides. Default: all."""
    validation: float = Field(default=0.1, ge=0.0, lt=1.0)
    """The share that is set aside for choosing: learning rates, ranks."""
    test: float = Field(default=0.2, ge=0.0, lt=1.0)
    """The share that is set aside for the accuracy that is told in the end; 0: it is told on the validation part."""
    min_bytes: PositiveInt = 1
    """Shorter texts (UTF-8 bytes) are left out."""
    seed: int = 0
    """Another seed, another division."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("sources"), str):
            return {**values, "sources": (values["sources"],)}
        return values

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if not self.sources:
            raise ValueError("sources: names no source")
        if not 0.0 < self.validation + self.test < 1.0:
            raise ValueError("validation and test together must be above 0, and leave something to train on")
        return self
