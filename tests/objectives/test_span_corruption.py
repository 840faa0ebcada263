"""Span corruption: counts, the inverse, and the decoder's side."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pomona import anatomy
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.objectives import SpanCorruption, SpanCorruptionConfig
from pomona.objectives.spans import random_spans, shift_right, span_counts
from tests.objectives.test_conformance import tokenizer
from tests.tiny import VOCABULARY, llama, t5

SENTINELS = tuple(range(15, 3, -1))
END = 1


def made(**changes: Any) -> SpanCorruption:
    return SpanCorruption(SpanCorruptionConfig(**changes), sentinels=SENTINELS, end_id=END)


def tokens(rows: int = 16, length: int = 100) -> Tensor:
    return torch.randint(16, VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def restore(inputs: list[int], target: list[int]) -> list[int]:
    """Put the spans of the target back in the place of their sentinels."""
    assert inputs[-1] == target[-1] == END
    spans: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in SENTINELS:
            spans[token] = []
        else:
            spans[list(spans)[-1]].append(token)
    return [part for token in inputs[:-1] for part in (spans[token] if token in SENTINELS else [token])]


@pytest.mark.parametrize(("length", "mean_span"), [(8, 1.0), (8, 8.0), (33, 1.0), (33, 3.0), (100, 3.0), (100, 8.0)])
def test_nothing_is_lost(length: int, mean_span: float) -> None:
    """Input and target together give the text back: catches tokens that are dropped, doubled or out of order, and
    sentinels that differ between the two."""
    raw = tokens(length=length)
    batch = made(mean_span=mean_span).prepare({"tokens": raw}, seeded())
    for row in range(len(raw)):
        assert restore(batch["input_ids"][row].tolist(), batch["labels"][row].tolist()) == raw[row, :-1].tolist()


def test_counts_by_hand() -> None:
    """Catches a wrong density or span length: 100 tokens give 15 noise tokens in 5 spans; input 100 - 15 + 5 + 1,
    target 15 + 5 + 1; sentinels in order, each once on each side."""
    batch = made().prepare({"tokens": tokens()}, seeded())
    assert batch["input_ids"].shape == (16, 91) and batch["labels"].shape == (16, 21)
    for side in (batch["input_ids"], batch["labels"]):
        assert all([token for token in row.tolist() if token in SENTINELS] == list(SENTINELS[:5]) for row in side)
    assert span_counts(3, density=0.15, mean_span=3.0) == (1, 1)
    assert span_counts(2, density=0.9, mean_span=1.0) == (1, 1)


def test_spans_are_random_and_apart() -> None:
    """Catches spans that touch (two sentinels in a row hide where one ends), and segmentations that are not uniform:
    over many draws the mean length of the first span is noise / spans."""
    starts, noise = random_spans(4000, 40, noise=9, spans=3, generator=seeded())
    assert (noise.sum(1) == 9).all() and (starts.sum(1) == 3).all() and (starts & ~noise).sum() == 0
    before = torch.cat([torch.zeros(4000, 1, dtype=torch.bool), noise[:, :-1]], dim=1)
    assert not (starts & before).any() and not noise[:, 0].any() and noise[:, -1].all()
    first = (noise & (starts.long().cumsum(1) == 1)).sum(1).float()
    assert first.mean() == pytest.approx(3.0, abs=0.1) and first.min() == 1 and first.max() == 7


def test_decoder_input_is_the_target_one_later() -> None:
    """Catches a decoder that sees the token it shall write: parity with transformers' own shift."""
    labels = made().prepare({"tokens": tokens()}, seeded())["labels"]
    assert torch.equal(shift_right(labels, 0), t5().prepare_decoder_input_ids_from_labels(labels))


def test_from_a_tokenizer() -> None:
    """Catches sentinels out of order: <extra_id_0> comes first."""
    objective = SpanCorruptionConfig().build(tokenizer())
    assert objective.sentinels.tolist() == list(range(4, 13)) and objective.end_id == 1


def test_refusals() -> None:
    """Catches too few sentinels, packed documents, a tokenizer without them, and models that cannot do it."""
    with pytest.raises(ConfigError, match="40 sentinels for 100 tokens"):
        made(density=0.4, mean_span=1.0).prepare({"tokens": tokens()}, seeded())
    with pytest.raises(ConfigError, match="respect_documents"):
        made().prepare({"tokens": tokens(), "documents": torch.zeros(16, 101)}, seeded())
    with pytest.raises(ConfigError, match="at least 2 tokens"):
        made().prepare({"tokens": tokens(length=1)}, seeded())
    batch = made().prepare({"tokens": tokens()}, seeded())
    with pytest.raises(UnsupportedModel, match="encoder"):
        made()(anatomy.of(llama()), batch)
    with pytest.raises(UnsupportedModel, match="decoder_start_token_id"):
        made()(anatomy.of(t5(decoder_start_token_id=None)), batch)


def test_tokenizer_without_sentinels() -> None:
    """Catches a late KeyError."""

    class Plain:
        eos_token_id = None

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    with pytest.raises(ConfigError, match=r"sentinels .* and an end token"):
        SpanCorruptionConfig().build(Plain())
