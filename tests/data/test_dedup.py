"""Copies and near copies."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pomona.data.dedup import BAND, PLACES, RELATED, content_digest, families, near_copies, signatures, similar_pairs
from tests.data.conftest import prose


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[at : at + 3]) for at in range(len(words) - 2)}


def jaccard(left: str, right: str) -> float:
    """The exact similarity, from sets."""
    one, other = shingles(left), shingles(right)
    return len(one & other) / len(one | other)


def perturbed(text: str, changes: int, seed: int) -> str:
    """The text with some words replaced."""
    words = text.split()
    for at in random.Random(seed).sample(range(len(words)), changes):
        words[at] = f"changed{seed}x{at}"
    return " ".join(words)


def test_digests_ignore_case_and_white_space_only() -> None:
    """Catches copies that look different to the hash, and different texts that look the same."""
    assert content_digest("The  Shape\n of x") == content_digest("the shape of X ")
    assert content_digest("the shape of x") != content_digest("the shape of y")


def test_signatures_estimate_the_jaccard_similarity() -> None:
    """Catches hash functions that are not independent, and shingles that cross documents."""
    pairs = [
        (prose(seed, 120), perturbed(prose(seed, 120), changes, seed))
        for seed in range(20)
        for changes in (1, 5, 15, 40)
    ]
    made = signatures([text for pair in pairs for text in pair])
    estimates = (made[::2] == made[1::2]).mean(axis=1)
    exact = np.array([jaccard(*pair) for pair in pairs])
    errors = estimates - exact
    assert abs(errors.mean()) < 0.01
    assert np.sqrt((errors**2 / np.maximum(exact * (1 - exact) / PLACES, 1e-4)).mean()) < 1.3


def test_a_signature_does_not_depend_on_the_other_documents() -> None:
    """Catches running sums that leak from one document into the next."""
    texts = [prose(seed, 30 + seed) for seed in range(6)] + ["two words", "", "Ünïcode wörds hére and there"]
    together = signatures(texts)
    for index, text in enumerate(texts):
        assert np.array_equal(together[index], signatures([text])[0])
    assert np.array_equal(signatures(["The shape, of X!  And more"]), signatures(["the shape of x\nand more"]))


def test_texts_without_shingles_resemble_only_their_copies() -> None:
    """Catches very short documents that all look alike."""
    made = signatures(["a b", "c d", "a b", "!!!", "???"])
    agreement = (made[:, None] == made[None]).mean(axis=2)
    assert agreement[0, 2] == 1
    assert (agreement - np.eye(5) < 0.1).sum() == 25 - 2
    assert signatures([]).shape == (0, PLACES)


def test_near_copies_are_found_and_nothing_else() -> None:
    """Catches lost recall (bands), lost precision (verification) and copies kept instead of originals."""
    originals = [prose(seed, 200) for seed in range(150)]
    close = [perturbed(text, 3, seed) for seed, text in enumerate(originals)]  # similarity about 0.91
    apart = [perturbed(text, 30, seed + 1000) for seed, text in enumerate(originals)]  # about 0.45
    texts = originals + close + apart
    pairs, similarity = similar_pairs(signatures(texts))
    copies = near_copies(pairs, similarity, len(texts), 0.8)
    assert copies[:150].sum() == 0
    assert copies[150:300].sum() >= 149
    assert copies[300:].sum() == 0
    exact = [jaccard(texts[a], texts[b]) for a, b in pairs.tolist()]
    assert np.abs(similarity - exact).max() < 0.25
    assert similarity.min() >= RELATED
    assert (pairs[:, 0] < pairs[:, 1]).all() and len(np.unique(pairs, axis=0)) == len(pairs)


def test_a_copy_of_a_copy_is_kept_unless_it_resembles_what_is_kept() -> None:
    """Catches chains by which unlike documents remove each other."""
    pairs, similarity = np.array([[0, 1], [1, 2], [2, 3]]), np.array([0.9, 0.9, 0.7])
    assert near_copies(pairs, similarity, 4, 0.8).tolist() == [False, True, False, False]
    assert near_copies(pairs, similarity, 4, 0.6).tolist() == [False, True, False, True]


def test_families_join_whatever_is_linked() -> None:
    """Catches chains that are followed for one step only."""
    links = np.array([[5, 6], [0, 3], [3, 4], [1, 6], [4, 7]])
    assert families(links, 8).tolist() == [0, 1, 2, 0, 0, 1, 1, 0]
    chain = np.stack([np.arange(99), np.arange(1, 100)], axis=1)[::-1]
    assert families(chain, 100).tolist() == [0] * 100


@pytest.mark.parametrize("size", [2, 3, 40])
def test_large_buckets_of_the_same_text_leave_one(size: int) -> None:
    """Catches buckets of which only the first pair is compared."""
    texts = [f"{prose(1, 100)} {number}" for number in range(size)] + [prose(2, 100)]
    pairs, similarity = similar_pairs(signatures(texts))
    assert near_copies(pairs, similarity, len(texts), 0.8).tolist() == [False] + [True] * (size - 1) + [False]


def test_a_pair_is_found_although_each_of_its_buckets_begins_with_another_document() -> None:
    """Catches buckets in which documents are compared with the first one only."""
    random_places = np.random.default_rng(0)
    others = random_places.integers(0, 2**32, (PLACES // BAND, PLACES), dtype=np.uint32)
    first = np.concatenate([others[band, band * BAND : (band + 1) * BAND] for band in range(len(others))])
    second = first.copy()
    second[:10] += 1
    pairs, similarity = similar_pairs(np.stack([*others, first, second]))
    assert pairs.tolist() == [[len(others), len(others) + 1]]
    assert similarity.tolist() == [1 - 10 / PLACES]
