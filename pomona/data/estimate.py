"""How much text a source holds and how long it takes to read and to encode, guessed from the sizes of its files.

For plans: nothing is opened. The rates are seconds of one core (Zen 5, 2025), the guesses good to a factor of two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pomona.data.config import SourceConfig
from pomona.data.sources import kind_of, source_files
from pomona.data.workers import default_workers

READ_FILES, READ_CODE = 0.25e-6, 0.15e-6
"""Seconds per byte: reading text and finding copies in it; taking documentation out of source code, copies included."""
LEARN, ENCODE = 0.3e-6, 0.25e-6
"""Seconds per byte of byte-level BPE: learning merges from a sample, and encoding."""
SAMPLE_BYTES = 10_000_000
"""What merges are learnt from, at most (`train_tokenizer`)."""
START = 1.0
"""Seconds until worker processes have started."""
TEXT_SHARE = {"env:docs": 0.2, "env:code": 0.9, "env:pairs": 0.15, "env:facts": 0.05}
"""Text that remains of a byte of source code."""
UNPACKED = 3.0
"""Bytes of text in a byte of a compressed file."""


@dataclass(frozen=True)
class Estimate:
    """Bytes of text that a corpus will have, and seconds of one core that making it takes."""

    text_bytes: float
    core_seconds: float

    def corpus_seconds(self, workers: int | None = None) -> float:
        """Seconds until the corpus is made."""
        return START + self.core_seconds / (workers or default_workers())


def estimate(sources: Iterable[SourceConfig]) -> Estimate | None:
    """The estimate for all sources together; None where one has to be fetched to know its size.

    Raises:
        DataError: a source is not there.
    """
    text = seconds = 0.0
    for source in sources:
        if source.path.startswith("hub:"):
            return None
        if source.path.startswith("env:"):
            from pomona.data.embedded import environment_files

            size = sum(file.size for file in environment_files(source))
            text += size * TEXT_SHARE[source.path]
            seconds += size * READ_CODE
        else:
            unpacked = sum(_unpacked(file) for file in source_files(source))
            text += unpacked
            seconds += unpacked * READ_FILES
    return Estimate(text, seconds)


def tokenize_seconds(text_bytes: float, *, train: bool, workers: int | None = None) -> float:
    """Seconds that learning a tokenizer (if asked for) and encoding so much text take."""
    learn = min(text_bytes, SAMPLE_BYTES) * LEARN if train else 0.0
    return learn + text_bytes * ENCODE / (workers or default_workers())


def _unpacked(file: Path) -> float:
    """Bytes of text in a file, by its size."""
    packed = file.suffix.lower() == ".gz" or kind_of(file) == "parquet"
    return file.stat().st_size * (UNPACKED if packed else 1.0)
