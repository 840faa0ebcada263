"""Whether folders have the same tokenizer: models that read other tokens cannot share an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pomona.ground.errors import DataError
from pomona.ground.files import content_hash, file_hash, read_json

WHOLE = "tokenizer.json"
"""The file that holds all of a tokenizer."""
PARTS = ("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
"""What holds it where that file is not there."""
_SETTINGS = frozenset({"version", "truncation", "padding"})
"""Entries of the file that are about how a text is cut, not about its tokens."""


def fingerprint(folder: Path) -> str | None:
    """A hash of what decides how text becomes tokens; None where a folder holds no tokenizer."""
    if (folder / WHOLE).is_file():
        return content_hash(_whole(folder))
    parts = {name: file_hash(folder / name) for name in PARTS if (folder / name).is_file()}
    return content_hash(parts) if parts else None


def require_same_tokenizer(base: Path, experts: Sequence[Path], labels: Sequence[str]) -> None:
    """Raise `DataError` that names the experts whose tokenizer is not that of the base, and what differs."""
    own = fingerprint(base)
    lines = []
    for label, folder in zip(labels, experts, strict=True):
        if fingerprint(folder) != own:
            lines.append(f"{label}: {_difference(base, folder)}")
    if lines:
        raise DataError(
            "models with different tokenizers cannot be merged (nothing was made)",
            needs=f"the tokenizer of {base}",
            found="\n         ".join(lines),
            do="train the experts with the base's tokenizer; where a folder merely lacks the file, copy it there",
        )


def _difference(base: Path, other: Path) -> str:
    """In what two tokenizers differ."""
    for folder, name in ((other, "none"), (base, "one, the base none")):
        if fingerprint(folder) is None:
            return f"has {name}"
    if not ((base / WHOLE).is_file() and (other / WHOLE).is_file()):
        return "is stored in other files, or in files of other content"
    own, its = _whole(base), _whole(other)
    before, after = _ids(own), _ids(its)
    moved = [token for token in before if token in after and before[token] != after[token]]
    if lost := [token for token in before if token not in after]:
        return f"lacks {_some(lost)} of the base's {len(before)}"
    if new := [token for token in after if token not in before]:
        return f"has {_some(new)} that the base lacks"
    if moved:
        return f"has other ids for {_some(moved)}"
    return f"differs in {', '.join(sorted(key for key in {*own, *its} if own.get(key) != its.get(key)))}"


def _whole(folder: Path) -> dict[str, Any]:
    values = {key: value for key, value in read_json(folder / WHOLE).items() if key not in _SETTINGS}
    model = values.get("model") or {}
    if "merges" in model:  # written as "a b" or as two strings, by different versions
        merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
        values["model"] = {**model, "merges": merges}
    return values


def _ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    """Every token's id, as far as the kind of model tells it."""
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # unigram: pairs of token and score, in the order of their ids
        vocabulary = {str(entry[0]): place for place, entry in enumerate(vocabulary)}
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}
    return {**vocabulary, **added}


def _some(tokens: Sequence[str]) -> str:
    shown = ", ".join(map(repr, tokens[:3])) + (", ..." if len(tokens) > 3 else "")
    return f"{len(tokens)} token{'s' if len(tokens) > 1 else ''} ({shown})"
