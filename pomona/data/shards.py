"""Token shards: one self-describing, memory-mapped file whose name carries the checksum of its content.

Layout, little-endian: a header of 32 bytes (magic, bytes per token, documents, tokens, UTF-8 bytes of the text),
the number of tokens of every document (uint32), then the tokens (uint16 or uint32).
"""

from __future__ import annotations

import struct
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from pomona.ground.errors import DamagedArtefact
from pomona.ground.files import atomic_file

SUFFIX = ".tokens"
_MAGIC = b"pomona\x01\x00"
_HEADER = struct.Struct("<8sIIQQ")


class ShardFacts(NamedTuple):
    """What the manifest says of a shard; `name` ends with the checksum of the file."""

    name: str
    item_bytes: int
    documents: int
    tokens: int
    text_bytes: int

    @property
    def file_bytes(self) -> int:
        return _HEADER.size + 4 * self.documents + self.item_bytes * self.tokens

    @property
    def checksum(self) -> str:
        return self.name.removesuffix(SUFFIX).rpartition("-")[2]


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The smallest type that holds every token id: uint16 up to 65,536 tokens, else uint32."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def write_shard(
    folder: Path, stem: str, tokens: NDArray[Any], lengths: NDArray[np.uint32], text_bytes: int
) -> ShardFacts:
    """Write one shard atomically as `stem-CHECKSUM.tokens`.

    Args:
        tokens: uint16 or uint32, the documents one after another.
        lengths: tokens of each document; they sum to `len(tokens)`.
        text_bytes: UTF-8 bytes of the documents' text.
    """
    header = _HEADER.pack(_MAGIC, tokens.dtype.itemsize, len(lengths), len(tokens), text_bytes)
    digest = xxhash.xxh3_64()
    parts = (header, lengths.data.cast("B"), tokens.data.cast("B"))
    for part in parts:
        digest.update(part)
    facts = ShardFacts(
        f"{stem}-{digest.hexdigest()}{SUFFIX}", tokens.dtype.itemsize, len(lengths), len(tokens), text_bytes
    )
    with atomic_file(folder / facts.name) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part)
    return facts


def read_facts(path: Path) -> ShardFacts | None:
    """The facts of a shard whose checksum holds, read from the file itself; None when it is damaged."""
    data = path.read_bytes()
    if len(data) < _HEADER.size:
        return None
    magic, item_bytes, documents, tokens, text_bytes = _HEADER.unpack_from(data)
    facts = ShardFacts(path.name, item_bytes, documents, tokens, text_bytes)
    intact = magic == _MAGIC and xxhash.xxh3_64_hexdigest(data) == facts.checksum
    return facts if intact else None


class Shard:
    """A shard that is mapped, and its checksum compared, when it is first read."""

    def __init__(self, folder: Path, facts: ShardFacts, check: bool = True) -> None:
        self.path, self.facts, self._check = folder / facts.name, facts, check

    def size_is_right(self) -> bool:
        """True when the file exists with the expected size (no content is read)."""
        try:
            return self.path.stat().st_size == self.facts.file_bytes
        except FileNotFoundError:
            return False

    def is_intact(self) -> bool:
        """True when the content matches the checksum in the name."""
        return self.size_is_right() and xxhash.xxh3_64_hexdigest(self._map().data) == self.facts.checksum

    @cached_property
    def _content(self) -> NDArray[np.uint8]:
        if not self.size_is_right() or (self._check and not self.is_intact()):
            raise damaged([self], "this token shard")
        return self._map()

    def _map(self) -> NDArray[np.uint8]:
        return np.memmap(self.path, dtype=np.uint8, mode="r")

    @cached_property
    def lengths(self) -> NDArray[np.uint32]:
        """Tokens of each document."""
        return self._content[_HEADER.size :][: 4 * self.facts.documents].view("<u4")

    @cached_property
    def tokens(self) -> NDArray[Any]:
        """The tokens, mapped, not loaded."""
        return self._content[_HEADER.size + 4 * self.facts.documents :].view(f"<u{self.facts.item_bytes}")


def damaged(shards: list[Shard], what: str, intact: int | None = None) -> DamagedArtefact:
    """An error that names each damaged shard and says how many others are intact."""
    names = ", ".join(shard.facts.name for shard in shards)
    rest = "" if intact is None else f"; {intact} other shards are intact"
    return DamagedArtefact(
        f"{what} is damaged or missing",
        where=str(shards[0].path.parent),
        found=names + rest,
        do="repeat the command that made the tokens: it keeps intact shards and makes the others again",
    )
