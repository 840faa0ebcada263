"""A model card: its front matter, what it says something about, and the numbers that it claims."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from pomona.registry.schema import Claim

SECTIONS = {
    "intended use": r"intended (use|purpose)|uses?\b|how to use|usage",
    "limits": r"limit|bias|risk|out.of.scope|caveat",
    "training data": r"training data|data ?sets?\b|training set|corpus",
    "training procedure": r"training (procedure|details|hyper)|hyper-?parameters|how it was (trained|made)",
    "evaluation": r"evaluation|results|metrics|performance|benchmark",
    "citation": r"citation|paper|reference",
}
"""What a card should say something about, and how headings call it."""
HUB = "https://huggingface.co"


@dataclass(frozen=True)
class ModelCard:
    """What a card says. `front`: its front matter as plain values. `text`: what follows."""

    front: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""

    @property
    def licence(self) -> str | None:
        return _word(self.front.get("license")) or _word(self.front.get("licence"))

    @property
    def task(self) -> str | None:
        return _word(self.front.get("pipeline_tag"))

    @property
    def base_model(self) -> str | None:
        """The model that it was made from; of several the first."""
        return next(iter(_words(self.front.get("base_model"))), None)

    @property
    def relation(self) -> str | None:
        return _word(self.front.get("base_model_relation"))

    @property
    def datasets(self) -> list[str]:
        return _words(self.front.get("datasets"))

    @property
    def papers(self) -> list[str]:
        """DOIs; those of arXiv identifiers as arXiv issues them."""
        found = re.findall(r"\b10\.\d{4,9}/[^\s\"'<>)\]}]+", self.text)
        found += [f"10.48550/arXiv.{one}" for one in re.findall(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})", self.text)]
        found += [f"10.48550/arXiv.{one}" for one in re.findall(r"\barXiv:(\d{4}\.\d{4,5})", self.text)]
        return list(dict.fromkeys(doi.rstrip(".,;") for doi in found))

    @property
    def sections(self) -> list[str]:
        """What its headings with text below them are about."""
        pairs = re.findall(r"(?m)^#+[ \t]*(.+)\n((?:(?!#).*\n?)*)", self.text)
        filled = [title.lower() for title, below in pairs if len(below.split()) >= 3 and not PLACEHOLDER.search(below)]
        return [name for name, words in SECTIONS.items() if any(re.search(words, title) for title in filled)]

    @property
    def claims(self) -> list[Claim]:
        """The numbers of its `model-index`; entries without a number are left out."""
        return list(_claims(self.front.get("model-index")))


PLACEHOLDER = re.compile(r"\[?more information needed\]?", re.I)
"""What stands in a template that nobody filled in."""


def read_card(text: str | None) -> ModelCard:
    """A card from its text. A front matter that is not YAML counts as none."""
    match = re.match(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)(.*)\Z", text or "", re.DOTALL)
    if match is None:
        return ModelCard({}, text or "")
    try:
        front = yaml.safe_load(match[1])
    except yaml.YAMLError:
        front = None
    return ModelCard(front if isinstance(front, Mapping) else {}, match[2])


def address_of(dataset: str) -> tuple[str, str, str, str]:
    """Name, owner and their addresses of a dataset on the hub; where nobody is named the hub is the owner."""
    owner, slash, name = dataset.rpartition("/")
    return (
        (name, owner, f"{HUB}/datasets/{dataset}", f"{HUB}/{owner}")
        if slash
        else (*(dataset, HUB, f"{HUB}/datasets/{dataset}", HUB),)
    )


def _claims(index: Any) -> Iterator[Claim]:
    for model in _mappings(index):
        for result in _mappings(model.get("results")):
            task = next(iter(_mappings([result.get("task")])), {})
            data = next(iter(_mappings([result.get("dataset")])), {})
            for metric in _mappings(result.get("metrics")):
                value = metric.get("value")
                if isinstance(value, int | float) and not isinstance(value, bool):
                    yield Claim(
                        task=_word(task.get("type")),
                        dataset=_word(data.get("type")) or _word(data.get("name")),
                        split=_word(data.get("split")),
                        metric=_word(metric.get("type")) or _word(metric.get("name")) or "unnamed",
                        value=float(value),
                    )


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _words(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [word for item in items if (word := _word(item)) is not None]


def _word(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) and str(value).strip() else None
