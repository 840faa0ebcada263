"""Masked inputs, clean targets: what is hidden, how many, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pomona import anatomy
from pomona.engine.protocols import IGNORED
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.objectives import Meap, MeapConfig, NextToken
from pomona.objectives.meap import hidden_count
from tests.objectives.test_conformance import tokenizer
from tests.tiny import VOCABULARY, bert, gpt2, llama

MASK = 2
SPECIAL = torch.arange(VOCABULARY) < 16


def made(**changes: Any) -> Meap:
    return Meap(MeapConfig(**changes), mask_id=MASK, kept_V=SPECIAL)


def tokens(rows: int = 16, length: int = 60) -> Tensor:
    return torch.randint(16, VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("positions", ["each", "shared"])
@pytest.mark.parametrize("length", [2, 5, 60])
def test_exactly_so_many_and_never_the_last(positions: Any, length: int) -> None:
    """Catches a number that is random or rounded otherwise, and a mask at the last place, which nothing could learn
    from; all that is not hidden stays."""
    raw = tokens(length=length)
    batch = made(positions=positions).prepare({"tokens": raw}, seeded())
    hidden = batch["input_ids"] != raw[:, :-1]
    assert (hidden.sum(1) == max(1, int(length * 0.15))).all() and not hidden[:, -1].any()
    assert (batch["input_ids"][hidden] == MASK).all()
    assert bool((hidden == hidden[:1]).all()) == (positions == "shared" or length == 2)


def test_targets_are_those_of_next_token_prediction() -> None:
    """Catches masks among the labels, and labels that are not counted because their token is hidden in the input."""
    raw = tokens()
    documents = torch.zeros_like(raw)
    documents[:, 25:] = 1
    for given in ({"tokens": raw}, {"tokens": raw, "documents": documents}):
        ours, plain = made().prepare(given, seeded()), NextToken().prepare(given)
        assert ours.keys() == plain.keys()
        assert all(torch.equal(ours[name], plain[name]) for name in ours if name != "input_ids")
        assert not (ours["labels"] == MASK).any()
    assert (ours["labels"] == IGNORED).sum() == len(raw)


def test_without_masks_it_is_next_token_prediction() -> None:
    """The limit of the ratio: catches a mask that is always there, and a loss that is not the same function."""
    body, raw = anatomy.of(llama()), {"tokens": tokens(4)}
    ours, plain = made(ratio=0.0), NextToken()
    mine, theirs = ours.prepare(raw, seeded()), plain.prepare(raw)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert torch.equal(ours(body, mine).total, plain(body, theirs).total)


def test_places_are_uniform() -> None:
    """Catches a choice that prefers some places: each but the last is hidden about equally often."""
    raw = tokens(4000, 21)
    hidden = made().prepare({"tokens": raw}, seeded())["input_ids"] != raw[:, :-1]
    share = 3 / 20
    assert (hidden.float().mean(0)[:-1] - share).abs().max() < 4 * (share * (1 - share) / 4000) ** 0.5


def test_special_tokens() -> None:
    """Catches the end of a text being hidden by default, a number that falls where they are many, and a switch
    without effect."""
    raw = tokens()
    raw[:, ::2] = 1
    for positions in ("each", "shared"):
        batch = made(positions=positions).prepare({"tokens": raw}, seeded())
        assert (batch["input_ids"][:, ::2] == 1).all()
    assert ((made().prepare({"tokens": raw}, seeded())["input_ids"] == MASK).sum(1) == 9).all()
    every = MeapConfig(hide_special=True).build(tokenizer()).prepare({"tokens": raw}, seeded())
    assert (every["input_ids"][:, ::2] == MASK).any()
    few = torch.full((2, 9), 1)
    few[:, 3] = 20
    assert (made(ratio=0.5).prepare({"tokens": few}, seeded())["input_ids"] == MASK).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
def test_a_mask_matters_to_what_follows_alone(make: Any) -> None:
    """Causality: a token that is hidden changes what is predicted at its place and after it, nothing before."""
    body = anatomy.of(make(initializer_range=0.3).eval())
    raw = tokens(1)[:, :-1]
    changed = raw.clone()
    changed[:, 30] = MASK
    with torch.no_grad():
        difference = (body.hidden(input_ids=raw) - body.hidden(input_ids=changed)).abs().amax(-1)[0]
    assert not difference[:30].any() and difference[30:].min() > 1e-5


def test_counts_and_refusals() -> None:
    """Catches a KeyError where a way out belongs, and a model that sees its targets."""
    assert [hidden_count(length, 0.15) for length in (1, 6, 7, 13, 14, 4096)] == [1, 1, 1, 1, 2, 614]

    class Plain:
        mask_token_id = None

    with pytest.raises(ConfigError, match=r"meap needs a mask token[\s\S]*`mask_token: <mask>`"):
        MeapConfig().build(Plain())
    with pytest.raises(UnsupportedModel, match="causal"):
        made().check(anatomy.of(bert()))
