"""A look at a source before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator

from pomona.data.config import SourceConfig
from pomona.data.documents import Document
from pomona.data.readers import Reading, read_part
from pomona.data.sources import parts_of


def documents_of(source: SourceConfig) -> Iterator[Document]:
    """The documents of a source as they are, before copies are removed."""
    reading = Reading(source)
    for part in parts_of(source):
        yield from read_part(part, reading)
