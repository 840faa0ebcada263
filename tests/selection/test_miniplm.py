"""Scores against transformers' own loss, and what difference sampling keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pomona import anatomy
from pomona.data.tokens import Split
from pomona.ground.errors import ConfigError, DataError, UnsupportedModel
from pomona.selection import Chunks, MiniplmConfig, RandomSubsetConfig, keep_highest, nats_of_chunks
from pomona.selection.likelihood import check_scorer
from pomona.selection.miniplm import difference
from tests.tiny import VOCABULARY, bert, gpt2, llama

END = 1


def split(seed: int = 0) -> Split:
    """Documents of many lengths, each closed by the end token."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 30, (20,), generator=draw).tolist()
    return Split.of([[*torch.randint(2, VOCABULARY, (n,), generator=draw).tolist(), END] for n in lengths])


def test_chunks_are_the_whole_sequence() -> None:
    """Catches tokens at the end that belong to no chunk, and a chunk that predicts nothing."""
    for tokens, wanted in ((22, [11, 11]), (23, [11, 12]), (24, [11, 11, 2]), (5, [5]), (1, [1])):
        chunks = Chunks(tokens, 10)
        spans = [chunks.span(number) for number in range(len(chunks))]
        assert [count for _, count in spans] == wanted
        assert [start for start, _ in spans] == [sum(wanted[:n]) for n in range(len(wanted))]
    assert len(Chunks(0, 10)) == 0


@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
def test_nats_are_transformers_loss(make: Any) -> None:
    """Catches sums in place of means, a shifted label, dropout, ends of documents in the mean, and neighbours or
    padding that change a chunk's score."""
    model, tokens = make().train(), split()
    chunks = Chunks(tokens.count, 15)
    numbers = range(len(chunks))
    found = nats_of_chunks(anatomy.of(model), tokens, chunks, numbers, end=END, batch_size=5)
    assert model.training and found.dtype == np.float32
    model.eval()
    for number in numbers:
        ids = torch.from_numpy(tokens.tokens.read(*chunks.span(number)).astype(np.int64))[None]
        labels = ids.masked_fill(ids == END, -100)
        with torch.no_grad():
            loss = model(input_ids=ids, labels=labels).loss
        assert float(loss) == pytest.approx(float(found[number]), rel=1e-5)
    for batch_size in (1, 64):
        again = nats_of_chunks(anatomy.of(model), tokens, chunks, numbers, end=END, batch_size=batch_size)
        np.testing.assert_allclose(again, found, rtol=1e-5)
    part = nats_of_chunks(anatomy.of(model), tokens, chunks, numbers[3:7], end=END)
    np.testing.assert_allclose(part, found[3:7], rtol=1e-5)


def test_difference_by_hand() -> None:
    """Catches a flipped sign, which would keep what the teacher finds hardest."""
    teacher, reference = np.array([1.0, 2.0, 3.0], dtype=np.float32), np.array([1.5, 2.0, 2.0], dtype=np.float32)
    assert difference(teacher, reference).tolist() == [0.5, 0.0, -1.0]


def test_selection_depends_on_order_alone() -> None:
    """Catches a threshold on the scores: a constant in both models, or any increasing map of r, changes nothing."""
    draw = np.random.default_rng(0)
    teacher, reference = (draw.integers(0, 64, 200).astype(np.float32) / 8 for _ in range(2))
    r = difference(teacher, reference)
    kept = keep_highest(r, 0.3)
    assert np.array_equal(keep_highest(difference(teacher + 2, reference + 2), 0.3), kept)
    assert np.array_equal(keep_highest(np.exp(r) * 3 - 1, 0.3), kept)


def test_equal_models_keep_the_first() -> None:
    """Catches a tie that is decided by chance."""
    same = np.random.default_rng(0).random(50).astype(np.float32)
    scores = MiniplmConfig().scores({"teacher": same, "reference": same}, 50)
    assert not scores.any() and keep_highest(scores, 0.29).tolist() == list(range(14))


def test_the_rest_is_the_complement() -> None:
    """Catches a reference that is trained on what it scores."""
    first = keep_highest(RandomSubsetConfig(ratio=0.25).scores({}, 40), 0.25)
    rest = keep_highest(RandomSubsetConfig(ratio=0.75, part="rest").scores({}, 40), 0.75)
    assert sorted([*first.tolist(), *rest.tolist()]) == list(range(40)) and len(first) == 10
    assert first.tolist() != list(range(10))


def test_refusals() -> None:
    """Catches compute spent on models that cannot say how likely a text is, and rankings of nothing."""
    with pytest.raises(UnsupportedModel, match="the teacher of a selection"):
        check_scorer(anatomy.of(bert()), 8, "teacher")
    with pytest.raises(ConfigError, match="shorten chunk_length"):
        check_scorer(anatomy.of(llama(max_position_embeddings=16)), 17, "reference")
    with pytest.raises(DataError, match="1 of 2 scores are not finite"):
        keep_highest(np.array([1.0, np.nan]), 0.5)
    with pytest.raises(DataError, match="raise ratio"):
        keep_highest(np.array([1.0, 2.0]), 0.4)
