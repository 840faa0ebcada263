"""Some stretches of a token sequence as a folder of tokens of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pomona.data.shards import ShardFacts, token_type, write_shard
from pomona.data.tokens import SPLITS, Split, Tokens, metadata_file

Span = tuple[int, int]
"""(first token, number of tokens)."""


def write_subset(tokens: Tokens, spans: Iterable[Span], folder: Path) -> dict[str, Any]:
    """Write the train tokens within `spans`, and everything else as it is, into `folder`.

    Spans that touch are one stretch; documents are cut at the ends of a stretch and nowhere else. What was known about
    the documents is not taken along, as they may be parts now.

    Args:
        spans: ascending, without overlap.
        folder: exists; gets everything but the manifest.

    Returns:
        The facts for the manifest, as `Tokens` reads them.
    """
    split, most = tokens.train, int(tokens.facts["shard_tokens"])
    shards: list[ShardFacts] = []
    for number, pieces in enumerate(_by_size(pieces_of(split, joined(spans)), most)):
        lengths = np.array([count for _, count in pieces], dtype="<u4")
        parts = [split.tokens.read(start, count) for start, count in pieces]
        ids = np.concatenate(parts).astype(token_type(tokens.vocab_size))
        text_bytes = int(tokens.token_bytes[ids.astype(np.int64)].sum(dtype=np.int64))
        shards.append(write_shard(folder, f"train-{number:05d}", ids, lengths, text_bytes))
    held_out = [ShardFacts(*shard) for shard in tokens.facts["shards"]["validation"]]
    copied = [*(shard.name for shard in held_out), "token_bytes.i32", metadata_file("validation")]
    for name in copied:
        if (tokens.folder / name).is_file():
            shutil.copyfile(tokens.folder / name, folder / name)
    shutil.copytree(tokens.folder / "tokenizer", folder / "tokenizer")
    kept = {"train": shards, "validation": held_out}
    totals = {
        name: {
            "documents": sum(shard.documents for shard in kept[name]),
            "tokens": sum(shard.tokens for shard in kept[name]),
            "bytes": sum(shard.text_bytes for shard in kept[name]),
        }
        for name in SPLITS
    }
    passed_on = {name: tokens.facts[name] for name in ("format", "tokenizer", "shard_tokens", "vocab_size")}
    return {**passed_on, "splits": totals, "shards": kept}


def joined(spans: Iterable[Span]) -> Iterator[Span]:
    """The spans, those that touch made one."""
    begin, end = 0, 0
    for start, count in spans:
        if start != end:
            if end > begin:
                yield begin, end - begin
            begin = start
        end = start + count
    if end > begin:
        yield begin, end - begin


def pieces_of(split: Split, spans: Iterable[Span]) -> Iterator[Span]:
    """The documents, or parts of them, that lie in the spans."""
    starts: NDArray[np.int64] = split.document_starts
    for begin, count in spans:
        low, high = np.searchsorted(starts, (begin, begin + count), side="right")
        edges = [begin, *(int(each) for each in starts[low:high] if each < begin + count), begin + count]
        yield from ((one, other - one) for one, other in pairwise(edges) if other > one)


def _by_size(pieces: Iterable[Span], most: int) -> Iterator[list[Span]]:
    """Runs of pieces of about `most` tokens each."""
    run: list[Span] = []
    size = 0
    for piece in pieces:
        run.append(piece)
        size += piece[1]
        if size >= most:
            yield run
            run, size = [], 0
    if run:
        yield run
