"""Small corpora that several tests share."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pomona.data import Corpus, CorpusConfig, make_corpus

WORDS = [
    "tensor", "gradient", "shape", "index", "value", "returns", "array", "matrix", "the", "of", "and",
    "a", "when", "given", "which", "axis", "along", "elements", "input", "output", "function", "computes",
    "number", "float", "integer", "default", "raises", "error", "if", "not", "is", "in", "for",
    "each", "row", "column", "sum", "mean",
]  # fmt: skip


def prose(seed: int, words: int = 60) -> str:
    """A text of random words, the same for the same seed."""
    source = random.Random(seed)
    return " ".join(
        source.choice(WORDS) + (str(source.randrange(1000)) if source.random() < 0.3 else "") for _ in range(words)
    )


@pytest.fixture(scope="session")
def write_lines() -> Callable[..., Path]:
    """Write objects or raw lines as JSONL."""

    def write(path: Path, rows: list[object]) -> Path:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    return write


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two hundred documents of which a fifth is set aside, in small row groups."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = [json.dumps({"text": f"{prose(seed)} naïve 🙂 {seed}"}) for seed in range(200)]
    (folder / "lines.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = CorpusConfig.parse({"sources": str(folder / "lines.jsonl"), "validation": 0.2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pomona.data.corpus._GROUP_BYTES", 4096)
        return make_corpus(config, folder / "corpus", workers=1)
