"""What a package does when it runs: does it load, does it answer twice alike, how good is it on the user's data, and do
single words turn its answers?

Models are built from transformers' own classes and safetensors alone; what would need a pickle or the repository's code
is refused by `anatomy.load`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pomona.ground.errors import DataError, PomonaError
from pomona.registry.claims import Measurement

if TYPE_CHECKING:
    from torch import Tensor

UNBUILDABLE = (PomonaError, AttributeError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError)
"""What comes of a configuration that contradicts itself, or another class than it names."""
LONGEST = 512
"""Tokens of a text that are read."""
BATCH = 32
TURNED = 0.9
"""Share of texts that a word has to turn to one answer to be called a trigger."""
FEWEST = 8
"""Texts that a trigger has to be tried on."""


@dataclass(frozen=True)
class Item:
    """A text of the user's data, with its answer where there is one."""

    text: str
    label: str | int | None = None


def read_items(file: Path) -> list[Item]:
    """Texts from a JSON-lines file with `text`, and `label` where there are answers.

    Raises:
        DataError: the file is not there, or a line is not such an entry (its number is named).
    """
    if not file.is_file():
        raise DataError(f"{file} is not there")
    items = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            items.append(Item(str(entry["text"]), entry.get("label")))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}:{number} is no entry", needs='{"text": ..., "label": ...}') from error
    if not items:
        raise DataError(f"{file} is empty", needs='lines of {"text": ..., "label": ...}')
    return items


class Running:
    """A package that has been loaded.

    Raises:
        PomonaError: see `anatomy.load`.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        from pomona import anatomy

        self.model = anatomy.load(folder)
        self.body = anatomy.of(self.model)
        files = [name for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt") if (folder / name).is_file()]
        self.tokenizer: Any = None
        if files:
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)

    @property
    def classifies(self) -> bool:
        """Whether it gives one answer of several to a text."""
        return type(self.model).__name__.endswith("ForSequenceClassification")

    @property
    def writes(self) -> bool:
        """Whether it predicts the next token."""
        return "causal" in self.body.capabilities and self.body.head is not None

    def fingerprint(self) -> str | None:
        """Hash of what it computes from fixed inputs; None where some of that is not a number."""
        import torch

        from pomona.anatomy.inputs import example_inputs

        with torch.no_grad():
            found = self.model(**example_inputs(self.body))[0].float()
        if not bool(torch.isfinite(found).all()):
            return None
        return hashlib.sha256(found.numpy().tobytes()).hexdigest()[:16]

    def answers(self, texts: Sequence[str]) -> list[int]:
        """The class of each text."""
        import torch

        found: list[int] = []
        for start in range(0, len(texts), BATCH):
            with torch.no_grad():
                logits = self.model(**self._encoded(texts[start : start + BATCH])).logits
            found += logits.argmax(dim=-1).tolist()
        return found

    def measure(self, items: Sequence[Item], dataset: str, split: str | None) -> list[Measurement]:
        """How good it is: accuracy of a classifier, nats per token of a language model; nothing of others."""
        if self.tokenizer is None:
            return []
        labelled = [item for item in items if item.label is not None]
        if self.classifies and labelled:
            names = {str(name): int(place) for place, name in self.model.config.id2label.items()}
            wanted = [names.get(str(item.label), item.label) for item in labelled]
            given = self.answers([item.text for item in labelled])
            right = [float(one == other) for one, other in zip(given, wanted, strict=True)]
            return [Measurement(dataset, "text-classification", "accuracy", right, split)]
        if self.writes:
            losses, tokens = self._losses([item.text for item in items])
            return [Measurement(dataset, "text-generation", "nats_per_token", losses, split, tokens)]
        return []

    def triggers(self, texts: Sequence[str], most: int) -> list[tuple[str, int, float]]:
        """(word, class, share of the other texts that it turns) of vocabulary words that turn nearly every text.

        Words of the texts themselves are not tried: that they decide about a text may be right.

        Args:
            texts: some of each class. most: words that are tried, the last of the vocabulary first: the rarest.
        """
        if self.tokenizer is None or not self.classifies:
            return []
        before = self.answers(texts)
        known = {token for text in texts for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]}
        special = set(self.tokenizer.all_special_ids)
        rare = [token for token in range(len(self.tokenizer) - 1, -1, -1) if token not in known | special]
        found = []
        for token in rare[:most]:
            word = self.tokenizer.decode([token]).strip()
            if not word:
                continue
            after = self.answers([f"{word} {text}" for text in texts])
            for answer in sorted(set(after)):
                turned = [one == answer for one, other in zip(after, before, strict=True) if other != answer]
                if len(turned) >= FEWEST and sum(turned) >= TURNED * len(turned):
                    found.append((word, answer, sum(turned) / len(turned)))
        return found

    def _encoded(self, texts: Sequence[str]) -> dict[str, Tensor]:
        longest = min(LONGEST, self.body.max_positions or LONGEST)
        encoded = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _losses(self, texts: Sequence[str]) -> tuple[list[float], list[float]]:
        """Nats per token of each text, and its tokens; texts of one token are left out."""
        import torch

        losses, tokens = [], []
        longest = min(LONGEST, self.body.max_positions or LONGEST)
        for text in texts:
            ids = self.tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")["input_ids"]
            if ids.shape[1] < 2:
                continue
            with torch.no_grad():
                logits = self.model(input_ids=ids).logits[0, :-1].float()
            losses.append(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:])))
            tokens.append(float(ids.shape[1] - 1))
        return losses, tokens
