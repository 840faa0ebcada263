"""One part of a source, read, tidied, hashed and written to a spool file: the work that runs in parallel."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pomona.data.config import SourceConfig
from pomona.data.dedup import PLACES, content_digest, signatures
from pomona.data.documents import Document, cut, tidy
from pomona.data.readers import Reading, read_part
from pomona.ground.files import storage_errors

_BATCH_BYTES = 1 << 22

SPOOL = pa.schema(
    [
        ("text", pa.string()),
        ("bytes", pa.int64()),
        ("metadata", pa.map_(pa.string(), pa.string())),
        ("digest", pa.binary(16)),
        ("signature", pa.list_(pa.uint32(), PLACES)),
    ]
)


def extract(task: Mapping[str, Any]) -> dict[str, Any]:
    """Write the documents of `task["part"]` to `task["out"]` and return the counts of what was left out."""
    collecting = gc.isenabled()
    gc.disable()  # syntax trees hold no cycles; looking for some takes a third of the time
    try:
        with storage_errors(Path(task["out"])):
            return _extract(task)
    finally:
        if collecting:
            gc.enable()


def _extract(task: Mapping[str, Any]) -> dict[str, Any]:
    reading = Reading(SourceConfig.model_validate(task["source"]))
    facts = {"short": 0}
    texts: list[str] = []
    rows: list[tuple[int, Mapping[str, str]]] = []
    total = 0
    with pa.OSFile(task["out"], "wb") as file, pa.ipc.new_stream(file, SPOOL) as writer:
        for document in read_part(task["part"], reading):
            for text, size in _pieces(document, task["max_bytes"]):
                if size < task["min_bytes"]:
                    facts["short"] += 1
                    continue
                texts.append(text)
                rows.append((size, document.metadata))
                total += size
            if total >= _BATCH_BYTES:
                writer.write_batch(_batch(texts, rows))
                texts, rows, total = [], [], 0
        if texts:
            writer.write_batch(_batch(texts, rows))
    return {**facts, "bad_lines": reading.bad_lines, "bad_examples": reading.examples}


def _pieces(document: Document, max_bytes: int) -> Iterator[tuple[str, int]]:
    text = tidy(document.text)
    size = len(text.encode())
    if size <= max_bytes:
        yield text, size
    elif "docstring_length" not in document.metadata:  # a pair that is cut is no pair
        for piece in cut(text, max_bytes):
            yield piece, len(piece.encode())


def _batch(texts: list[str], rows: list[tuple[int, Mapping[str, str]]]) -> pa.RecordBatch:
    return pa.record_batch(
        [
            pa.array(texts, SPOOL.field("text").type),
            pa.array([size for size, _ in rows], SPOOL.field("bytes").type),
            pa.array([list(metadata.items()) for _, metadata in rows], SPOOL.field("metadata").type),
            pa.array([content_digest(text) for text in texts], SPOOL.field("digest").type),
            pa.FixedSizeListArray.from_arrays(pa.array(signatures(texts).ravel()), PLACES),
        ],
        schema=SPOOL,
    )
