"""Labelled examples as a folder: labels in order, and the examples of each side, divided by content alone."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pomona.data.documents import tidy
from pomona.data.permutation import derive_key
from pomona.data.sources import fingerprint as data_fingerprint
from pomona.ground.errors import DamagedArtefact, DataError
from pomona.ground.files import content_hash, read_json, write_json
from pomona.tasks.config import ExamplesConfig
from pomona.tasks.reading import Example, plain, read_examples

FORMAT = 1  # raised when the same sources would give other examples

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Examples:
    """A finished folder of examples.

    Attributes:
        folder: where it lies.
        labels: all labels; a model's output i stands for `labels[i]`.
    """

    folder: Path
    labels: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path) -> Examples:
        """Raises `DamagedArtefact` where the folder holds no examples."""
        if not (folder / "labels.json").is_file():
            raise DamagedArtefact(f"{folder} holds no examples", needs="labels.json", do="make it with `examples`")
        return cls(folder, tuple(read_json(folder / "labels.json")))

    def side(self, side: Side) -> list[Example]:
        """The examples of a side, in a fixed order."""
        with (self.folder / f"{side}.jsonl").open(encoding="utf-8") as lines:
            return [Example(*json.loads(line)) for line in lines]

    def held_out(self) -> Side:
        """The side on which the accuracy is told: the test part, or where there is none the validation part."""
        return "test" if (self.folder / "test.jsonl").stat().st_size else "validation"

    def number(self, label: str) -> int:
        """The output that stands for a label."""
        return self.labels.index(label)


def make_examples(config: ExamplesConfig, folder: Path) -> dict[str, Any]:
    """Read, choose, divide and write examples into a folder that is there. Returns facts about them.

    Texts that occur twice are kept once, with their first label, so that no text is on two sides. The side of an
    example follows from its group (or text) and the seed alone: more data never moves an example to another side.

    Raises:
        DataError: a source cannot be read, there are fewer labels than asked for, or one has nothing to train on.
    """
    found, twice = _without_copies(read_examples(source) for source in config.sources)
    found = [example for example in found if len(example.text.encode()) >= config.min_bytes]
    labels = _labels(found, config)
    sides = _divided([example for example in found if example.label in labels], config)
    here = {side: Counter(example.label for example in examples) for side, examples in sides.items()}
    if empty := [label for label in labels if not here["train"][label]]:
        raise DataError(
            "a label has no example to train on",
            found=f"{', '.join(empty[:3])}{' ...' if len(empty) > 3 else ''}",
            do="give more examples of it, set less aside, or keep the larger `classes` alone",
        )
    write_json(folder / "labels.json", list(labels))
    for side in SIDES:
        lines = (json.dumps(list(example), ensure_ascii=False) for example in sides[side])
        (folder / f"{side}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    told: Side = "test" if sides["test"] else "validation"
    return {
        "labels": list(labels),
        "copies": twice,
        **{side: len(examples) for side, examples in sides.items()},
        "most_common": max(here[told].values(), default=0) / max(1, len(sides[told])),
    }


def fingerprint(config: ExamplesConfig) -> str:
    """A hash that changes when the configuration or a source does; it reads no file."""
    from pomona.data.config import CorpusConfig

    sources = CorpusConfig(sources=tuple(plain(source) for source in config.sources))
    return content_hash([FORMAT, config.model_dump(mode="json"), data_fingerprint(sources)])


def _without_copies(sources: Iterable[Iterable[Example]]) -> tuple[list[Example], int]:
    """Examples with tidy texts, each text once, and how many were left out."""
    found: dict[str, Example] = {}
    count = 0
    for source in sources:
        for example in source:
            text = tidy(example.text)
            if text:
                count += 1
                found.setdefault(text, example._replace(text=text))
    return list(found.values()), count - len(found)


def _labels(examples: Sequence[Example], config: ExamplesConfig) -> tuple[str, ...]:
    """The labels that are kept, in their natural order: numbers by value, words by letters."""
    counts = Counter(example.label for example in examples)
    wanted = config.classes or len(counts)
    if len(counts) < max(2, wanted):
        raise DataError(
            "there are too few labels",
            needs=f"at least {max(2, wanted)}",
            found=f"{len(counts)}: {', '.join(sorted(counts)[:5])}",
            do="check `label` of the sources, and `classes`",
        )
    kept = sorted(counts, key=lambda label: (-counts[label], label))[:wanted]
    numbers = all(label.lstrip("-").isdigit() for label in kept)
    return tuple(sorted(kept, key=int) if numbers else sorted(kept))


def _divided(examples: Sequence[Example], config: ExamplesConfig) -> Mapping[Side, list[Example]]:
    """The examples of each side, in the order of their hashes, at most `per_class` of a label in all."""
    shares: dict[Side, float] = {
        "train": 1.0 - config.validation - config.test,
        "validation": config.validation,
        "test": config.test,
    }
    sides: dict[Side, list[Example]] = {side: [] for side in SIDES}
    taken: defaultdict[tuple[str, str], int] = defaultdict(int)
    for example in sorted(examples, key=lambda each: derive_key(config.seed, "order", each.text)):
        place = derive_key(config.seed, "side", example.group or example.text) / 2**64
        side: Side = (
            "test" if place < config.test else "validation" if place < config.test + config.validation else "train"
        )
        most = None if config.per_class is None else max(1, round(config.per_class * shares[side]))
        if most is None or taken[example.label, side] < most:
            taken[example.label, side] += 1
            sides[side].append(example)
    return sides
