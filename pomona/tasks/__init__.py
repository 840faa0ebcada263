"""Tasks: what a model is used for. Labelled examples, batches of them, the model with the task's head, its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pomona.ground.lazy import names_from

if TYPE_CHECKING:
    from pomona.tasks.classifier import classifier_for, ready_tokenizer
    from pomona.tasks.classify import Classify, Scores, score
    from pomona.tasks.config import ExamplesConfig, LabelledSource
    from pomona.tasks.examples import Examples, make_examples
    from pomona.tasks.reading import Example, read_examples
    from pomona.tasks.stream import ExampleStream, encode, held_out_batches

__getattr__ = names_from(
    __name__,
    {
        "Classify": "classify",
        "Example": "reading",
        "ExampleStream": "stream",
        "Examples": "examples",
        "ExamplesConfig": "config",
        "LabelledSource": "config",
        "Scores": "classify",
        "classifier_for": "classifier",
        "encode": "stream",
        "held_out_batches": "stream",
        "make_examples": "examples",
        "read_examples": "reading",
        "ready_tokenizer": "classifier",
        "score": "classify",
    },
)

__all__ = [
    "Classify",
    "Example",
    "ExampleStream",
    "Examples",
    "ExamplesConfig",
    "LabelledSource",
    "Scores",
    "classifier_for",
    "encode",
    "held_out_batches",
    "make_examples",
    "read_examples",
    "ready_tokenizer",
    "score",
]
