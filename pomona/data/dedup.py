"""Copies and near copies: normalised hashes, MinHash signatures and locality-sensitive hashing, vectorised.

A signature is, for each of 128 hash functions, the smallest hash over a document's 3-word shingles; two signatures
agree in a place with a probability equal to the Jaccard similarity of the shingle sets (Broder, 1997). Documents that
agree in four consecutive places (one of 32 bands) are compared; the similarity is then estimated from all 128 places
(standard error at most 0.044). A pair of similarity 0.8 meets in some band with probability 1 - 5e-8, of 0.5 with 0.87.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pomona.data.permutation import mix64

PLACES = 128
BAND = 4
SHINGLE_WORDS = 3
RELATED = 0.5
"""Documents at least this similar stay on the same side of the train/validation split."""

_LEADERS = 8  # members of a bucket that the rest of it is compared with

U64 = NDArray[np.uint64]


def _odd_constants(count: int, seed: int) -> U64:
    return mix64(
        np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    ) | np.uint64(1)


_BYTE_VALUES = _odd_constants(256, 1)
_FACTORS, _SHIFTS = _odd_constants(PLACES, 2), _odd_constants(PLACES, 3)
_SHINGLE_FACTORS = _odd_constants(SHINGLE_WORDS, 4)
_BASE = 0x5851F42D4C957F2D
_BASE_INVERSE = pow(_BASE, -1, 1 << 64)
_LOWER = np.array([byte + 32 if 65 <= byte <= 90 else byte for byte in range(256)], dtype=np.uint8)
_IN_WORD = np.array([chr(byte).isalnum() or byte == 95 or byte >= 128 for byte in range(256)])


def content_digest(text: str) -> bytes:
    """128-bit hash of the text with case and white space levelled: equal for copies that differ only in those."""
    return xxhash.xxh3_128_digest(" ".join(text.lower().split()).encode())


def signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """(documents, 128) uint32 MinHash signatures. A document of fewer than three words resembles only its copies."""
    found = np.empty((len(texts), PLACES), dtype=np.uint32)
    hashes, owners = _shingles(texts)
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    with_shingles = owners[firsts]
    for place in range(PLACES if len(firsts) else 0):
        values = hashes * _FACTORS[place]
        values += _SHIFTS[place]
        values >>= np.uint64(32)
        found[with_shingles, place] = np.minimum.reduceat(values, firsts)
    short = np.ones(len(texts), dtype=bool)
    short[with_shingles] = False
    for index in np.flatnonzero(short).tolist():
        seed = xxhash.xxh3_64_intdigest(content_digest(texts[index]))
        found[index] = mix64(_FACTORS ^ np.uint64(seed)) >> np.uint64(32)
    return found


def _shingles(texts: Sequence[str]) -> tuple[U64, NDArray[np.int64]]:
    """A hash for every three consecutive words, and the document each belongs to."""
    encoded = [text.encode() for text in texts]
    data = _LOWER[np.frombuffer(b"\n".join(encoded) + b"\n", dtype=np.uint8)]
    inside = _IN_WORD[data]
    edges = np.flatnonzero(np.diff(inside.view(np.int8), prepend=np.int8(0), append=np.int8(0)))
    starts, ends = edges[::2], edges[1::2]
    # A word's hash is sum(value[byte] * base**offset): a difference of running sums, shifted back to offset 0.
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum(_BYTE_VALUES[data] * _powers(_BASE, len(data)), out=sums[1:])
    words = mix64((sums[ends] - sums[starts]) * _powers(_BASE_INVERSE, len(data))[starts])
    document_starts = np.cumsum([0, *(len(each) + 1 for each in encoded)])
    owners = np.searchsorted(document_starts, starts, side="right") - 1
    count = max(0, len(words) - SHINGLE_WORDS + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset, factor in enumerate(_SHINGLE_FACTORS):
        hashes += words[offset : offset + count] * factor
    whole = owners[:count] == owners[len(words) - count :]
    return mix64(hashes[whole]), owners[:count][whole]


def _powers(base: int, count: int) -> U64:
    """base**0, base**1, ... modulo 2**64."""
    powers = np.full(count, base, dtype=np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)


def similar_pairs(signatures: NDArray[np.uint32], stop: float = 0.8) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of documents that are at least `RELATED`, with their estimated similarity.

    Args:
        signatures: (documents, 128), in the documents' order.
        stop: within a bucket, documents at least this similar to an earlier one are not compared further.

    Returns:
        (pairs, 2) indices, the earlier document first, sorted and unique; (pairs,) similarities in [0.5, 1].
    """
    if len(signatures) < 2:
        return np.empty((0, 2), dtype=np.int64), np.empty(0)
    found: list[NDArray[np.int64]] = [np.empty((0, 2), dtype=np.int64)]
    scores: list[NDArray[np.float64]] = [np.empty(0)]
    for band in range(0, PLACES, BAND):
        keys = _band_keys(signatures[:, band : band + BAND])
        members = np.argsort(keys, kind="stable")
        members = members[_in_company(keys[members])]
        for _ in range(_LEADERS):
            firsts = np.diff(keys[members], prepend=keys[members][:1] + np.uint64(1)) != 0
            if firsts.all():
                break
            leaders = members[firsts][np.cumsum(firsts) - 1]
            pairs = np.stack([leaders, members], axis=1)[~firsts]
            similarity = _agreement(signatures, pairs)
            related = similarity >= RELATED
            found.append(pairs[related])
            scores.append(similarity[related])
            members = members[~firsts][similarity < stop]
    pairs, first = np.unique(np.concatenate(found), axis=0, return_index=True)
    return pairs, np.concatenate(scores)[first]


def _band_keys(band: NDArray[np.uint32]) -> U64:
    return mix64((band.astype(np.uint64) * _FACTORS[:BAND]).sum(axis=1, dtype=np.uint64))


def _in_company(ordered: U64) -> NDArray[np.bool_]:
    """Which of some sorted keys occur more than once."""
    same: NDArray[np.bool_] = np.diff(ordered) == 0
    company: NDArray[np.bool_] = np.concatenate([same, [False]]) | np.concatenate([[False], same])
    return company


def _agreement(signatures: NDArray[np.uint32], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    parts = [np.empty(0)]
    for begin in range(0, len(pairs), 65536):
        left, right = pairs[begin : begin + 65536].T
        parts.append((signatures[left] == signatures[right]).mean(axis=1))
    return np.concatenate(parts)


def near_copies(
    pairs: NDArray[np.int64], similarity: NDArray[np.float64], count: int, threshold: float
) -> NDArray[np.bool_]:
    """(count,) True for each document that is at least `threshold` similar to an earlier one which is kept."""
    copies = np.zeros(count, dtype=bool)
    close = pairs[similarity >= threshold]
    for earlier, later in close[np.lexsort((close[:, 0], close[:, 1]))].tolist():
        if not copies[earlier]:
            copies[later] = True
    return copies


def families(pairs: NDArray[Any], count: int) -> NDArray[np.int64]:
    """(count,) the number of the first document that each document is linked to, directly or through others."""
    label = np.arange(count)
    while len(pairs):
        before = label.copy()
        low = np.minimum(label[pairs[:, 0]], label[pairs[:, 1]])
        np.minimum.at(label, pairs[:, 0], low)
        np.minimum.at(label, pairs[:, 1], low)
        label = label[label]
        if (label == before).all():
            break
    return label
