"""Masked language modelling: the 80/10/10 rule, whole words, special tokens and documents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import use_attention
from pomona.engine.protocols import IGNORED
from pomona.ground.errors import ConfigError
from pomona.objectives import MaskedLm, MaskedLmConfig
from pomona.objectives.choice import choose, share_of
from pomona.objectives.masked_lm import word_starts, words_of
from tests.objectives.test_conformance import tokenizer
from tests.tiny import VOCABULARY, bert

SPECIAL = torch.arange(VOCABULARY) < 16
MASK = 2


def made(word_start: Tensor | None = None, **changes: Any) -> MaskedLm:
    return MaskedLm(MaskedLmConfig(**changes), mask_id=MASK, special_V=SPECIAL, word_start_V=word_start)


def tokens(rows: int = 64, length: int = 100) -> Tensor:
    return torch.randint(16, VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shares() -> None:
    """80 % masked, 10 % random, 10 % kept: within four standard deviations over 9600 draws; everything else as it
    was, and the labels are the original tokens."""
    raw = tokens(640)
    batch = made().prepare({"tokens": raw}, seeded())
    chosen, original = batch["labels"] != IGNORED, raw[:, :-1]
    assert (chosen.sum(1) == 15).all()
    assert torch.equal(batch["labels"][chosen], original[chosen])
    assert torch.equal(batch["input_ids"][~chosen], original[~chosen])
    inputs, count = batch["input_ids"][chosen], int(chosen.sum())
    masked = int((inputs == MASK).sum()) / count
    kept = int((inputs == original[chosen]).sum()) / count  # a random token is the original one in 80
    assert masked == pytest.approx(0.8, abs=4 * (0.16 / count) ** 0.5)
    assert kept == pytest.approx(0.1 + 0.1 / 80, abs=4 * (0.09 / count) ** 0.5)


def test_positions_are_uniform() -> None:
    """Catches a choice that prefers some places: each is chosen about equally often."""
    chosen = made().prepare({"tokens": tokens(4000, 20)}, seeded())["labels"] != IGNORED
    assert (chosen.float().mean(0) - 0.15).abs().max() < 4 * (0.15 * 0.85 / 4000) ** 0.5


def test_special_tokens_are_never_touched() -> None:
    """Catches a hidden end token, and a special one as a random replacement."""
    raw = tokens()
    raw[:, ::3] = 1
    batch = made(masked=0.0, replaced=1.0, probability=0.9).prepare({"tokens": raw}, seeded())
    chosen, special = batch["labels"] != IGNORED, SPECIAL[raw[:, :-1]]
    assert not (chosen & special).any()
    assert not SPECIAL[batch["input_ids"][chosen]].any()
    assert (chosen.sum(1) == round(0.9 * int((~special[0]).sum()))).all()


def test_limits() -> None:
    """Catches the shares exchanged: all masked, all random, all kept."""
    raw = tokens()
    for masked, replaced in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0)):
        batch = made(masked=masked, replaced=replaced).prepare({"tokens": raw}, seeded())
        chosen = batch["labels"] != IGNORED
        inputs = batch["input_ids"][chosen]
        assert (inputs == MASK).all() == (masked == 1.0)
        assert torch.equal(batch["input_ids"], raw[:, :-1]) == (masked + replaced == 0.0)


def test_at_least_one_target_and_none_without_candidates() -> None:
    """Catches a short row without a target, and a target in a row of special tokens only."""
    candidates = torch.tensor([[True, True, False], [False, False, False]])
    chosen = choose(candidates, share_of(candidates, 0.15), seeded())
    assert chosen.sum(1).tolist() == [1, 0] and not chosen[0, 2]


def test_whole_words() -> None:
    """Every word is hidden whole or not at all, and the number is exceeded by less than a word."""
    starts = torch.arange(VOCABULARY) % 3 == 0
    raw = tokens()
    batch = made(starts, whole_words=True).prepare({"tokens": raw}, seeded())
    chosen, begins = batch["labels"] != IGNORED, starts[raw[:, :-1]]
    lengths = []
    for row in range(len(raw)):
        words = words_of(begins)[row]
        for word in words.unique():
            members = chosen[row][words == word]
            lengths.append(len(members))
            assert members.all() or not members.any()
        assert 15 <= int(chosen[row].sum()) < 15 + max(lengths)


def test_special_tokens_end_words() -> None:
    """Catches a word that reaches over a special token's place and hides it."""
    starts = torch.zeros(VOCABULARY, dtype=torch.bool)  # nothing begins a word but the row and special tokens
    raw = tokens(8)
    raw[:, 50] = 1
    batch = made(starts, whole_words=True).prepare({"tokens": raw}, seeded())
    chosen = batch["labels"] != IGNORED
    assert not chosen[:, 50].any()
    assert all(chosen[row, :50].all() != chosen[row, 51:].all() for row in range(8))


def test_marks_of_words() -> None:
    """Catches a vocabulary whose marks are misread, or that has none."""
    assert word_starts(["a", "##b", "[SEP]"]).tolist() == [True, False, True]
    assert word_starts(["Ġa", "b", "Ċ"]).tolist() == [True, False, True]
    assert word_starts(["▁a", "b"]).tolist() == [True, False]
    with pytest.raises(ConfigError, match="whole_words"):
        word_starts(["a", "b"])
    starts = MaskedLmConfig(whole_words=True).build(tokenizer()).word_start_V
    names = tokenizer().convert_ids_to_tokens(list(range(VOCABULARY)))
    assert starts is not None and starts.tolist() == [name.startswith("Ġ") for name in names]


@pytest.mark.parametrize("kernel", ["eager", "sdpa", "explicit"])
def test_documents_do_not_see_one_another(kernel: str) -> None:
    """Tokens of one document do not influence what is predicted in another, with every kernel and several rows."""
    model = bert(initializer_range=0.3)
    if kernel == "explicit":
        use_attention(model, "explicit")
    else:
        model.set_attn_implementation(kernel)
    body, objective = anatomy.of(model.eval()), made()
    documents = torch.tensor([[0] * 10 + [1] * 11, [0] * 21])
    one = objective.prepare({"tokens": tokens(2, 20), "documents": documents}, seeded())
    assert one["position_ids"][0].tolist() == [*range(10), *range(10)]

    def hidden(batch: dict[str, Tensor]) -> Tensor:
        seen: list[Tensor] = []
        original = body.hidden
        body.hidden = lambda **inputs: seen.append(original(**inputs)) or seen[0]  # type: ignore[method-assign, assignment]
        with torch.no_grad():
            objective(body, batch)
        body.hidden = original  # type: ignore[method-assign]
        return seen[0]

    other = {name: tensor.clone() for name, tensor in one.items()}
    other["input_ids"][:, 3] = (other["input_ids"][:, 3] + 1) % VOCABULARY
    difference = (hidden(one) - hidden(other)).abs().amax(-1)
    assert difference[0, :10].min() > 1e-4 and not difference[0, 10:].any()
    assert difference[1].min() > 1e-4


def test_refusals() -> None:
    """Catches a tokenizer without a mask token, and shares above 1."""
    plain = tokenizer()
    plain.mask_token = None
    with pytest.raises(ConfigError, match="mask_token: <mask>"):
        MaskedLmConfig().build(plain)
    with pytest.raises(ConfigError, match="together more than 1"):
        MaskedLmConfig.parse({"masked": 0.8, "replaced": 0.3})
