"""The mixture of denoisers: nothing is lost, counts, modes, what sees what, and its limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import use_attention
from pomona.engine.protocols import IGNORED
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.objectives import SpanCorruptionConfig, Ul2, Ul2Config
from pomona.objectives.ul2 import DENOISERS, Denoiser, follow, prefix_mask
from tests.objectives.test_conformance import FAMILIES, seeded, tokenizer
from tests.tiny import VOCABULARY, bert, gpt2, llama, t5

SENTINELS = list(range(4, 13))
MODES = {"R": 13, "S": 14, "X": 15}
END, PAD = 1, 0


def made(**changes: Any) -> Ul2:
    return Ul2Config(**changes).build(tokenizer())


def alone(denoiser: Denoiser, **changes: Any) -> Ul2:
    return made(denoisers=(denoiser,), **changes)


def tokens(rows: int = 16, length: int = 40) -> Tensor:
    return torch.randint(16, VOCABULARY, (rows, length + 1), generator=seeded())


def rows_of(batch: dict[str, Tensor]) -> list[tuple[list[int], list[int]]]:
    """(input, target) of each row without its padding."""
    inputs = [row[mask.bool()].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    return list(zip(inputs, [row[row != IGNORED].tolist() for row in batch["labels"]], strict=True))


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


@pytest.mark.parametrize("denoiser", DENOISERS, ids=lambda each: f"{each.mode}-{each.mean_span}-{each.density}")
@pytest.mark.parametrize("length", [2, 3, 17, 40])
def test_nothing_is_lost(denoiser: Denoiser, length: int) -> None:
    """Input and target together give the text back, whatever is hidden; the mode stands first and nowhere else; the
    text begins the input and a hidden span ends it; numbers of tokens and spans are those of the formulas."""
    raw = tokens(length=length)
    noise = min(max(round(length * denoiser.density), 1), length - 1)
    spans = 1
    if denoiser.mean_span is not None:
        spans = min(max(round(noise / denoiser.mean_span), 1), noise, length - noise)
    for row, (inputs, target) in enumerate(rows_of(alone(denoiser).prepare({"tokens": raw}, seeded()))):
        assert inputs[0] == MODES[denoiser.mode] and not set(target + inputs[1:]) & set(MODES.values())
        assert restore(inputs[1:], target) == raw[row, :-1].tolist()
        assert inputs[1] not in SENTINELS and inputs[-2] in SENTINELS
        assert (len(inputs), len(target)) == (length - noise + spans + 2, noise + spans + 1)
        if denoiser.mode == "S":
            assert [token for token in inputs if token in SENTINELS] == [SENTINELS[0]]


def test_one_denoiser_is_span_corruption() -> None:
    """The limit of the mixture: the same text, the same seed, the same loss as T5's objective."""
    plain = SpanCorruptionConfig().build(tokenizer())
    ours = alone(DENOISERS[0], modes=False)
    raw, body = {"tokens": tokens(4)}, anatomy.of(t5())
    given, wanted = ours.prepare(raw, seeded()), plain.prepare(raw, seeded())
    assert torch.equal(given["input_ids"], wanted["input_ids"]) and torch.equal(given["labels"], wanted["labels"])
    torch.testing.assert_close(ours(body, given).total, plain(body, wanted).total)


def test_how_often_each_is_taken() -> None:
    """Catches weights that are not used, and denoisers that a whole batch shares."""
    objective = made(
        denoisers=[{"mode": "R", "density": 0.15, "mean_span": 3, "weight": 3}, {"mode": "S", "density": 0.3}]
    )
    first = objective.prepare({"tokens": tokens(2000)}, seeded())["input_ids"][:, 0]
    assert float((first == MODES["R"]).float().mean()) == pytest.approx(0.75, abs=0.04)
    even = torch.bincount(made().prepare({"tokens": tokens(2000)}, seeded())["input_ids"][:, 0], minlength=16) / 2000
    assert even[13:].tolist() == pytest.approx([2 / 7, 1 / 7, 4 / 7], abs=0.05)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kernel", ["model", "explicit"])
def test_who_sees_what(family: str, kernel: Any) -> None:
    """In the prefix form each token of the input matters to all of the input and to the target, one of the target only
    to itself and later ones; in the causal form nothing matters to what is before it. Padding matters to none."""
    model = FAMILIES[family]().eval()
    for weight in model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.3, generator=seeded())
    use_attention(model, kernel)
    body = anatomy.of(model)
    raw = {"tokens": tokens(2, 20)}
    for attention in ("prefix", "causal"):
        objective = made(attention=attention)
        given = objective.prepare(raw, seeded(3))
        seen: list[Tensor] = []
        hidden = body.hidden

        def noting(hidden: Any = hidden, seen: list[Tensor] = seen, **inputs: Any) -> Tensor:
            seen.append(hidden(**inputs))
            return seen[-1]

        body.hidden = noting  # type: ignore[method-assign]
        with torch.no_grad():
            objective(body, given)
            length = int(given["attention_mask"][0].sum())
            written = int((given["labels"][0] != IGNORED).sum())
            for place in (0, length - 2):
                other = {name: tensor.clone() for name, tensor in given.items()}
                other["input_ids"][0, place] = 50
                objective(body, other)
                change = (seen[-1] - seen[0]).abs().amax(-1)
                assert change[0, place : length + written - 1].min() > 1e-5 and not change[1].any()
                assert bool(change[0, :place].any()) == (attention == "prefix" and place > 0)
            other = {name: tensor.clone() for name, tensor in given.items()}
            other["labels"][0, 2] = 50
            objective(body, other)
            change = (seen[-1] - seen[0]).abs().amax(-1)[0]
            assert not change[: length + 2].any() and change[length + 2 : length + written - 1].min() > 1e-5
        body.hidden = hidden  # type: ignore[method-assign]


def test_loss_by_a_slow_reference() -> None:
    """Each row alone, without padding, its target read off one by one: catches targets that are off by one behind the
    input, and padding that counts."""
    objective = made(attention="causal")
    for body in (anatomy.of(llama()), anatomy.of(gpt2())):
        given = objective.prepare({"tokens": tokens(6)}, seeded())
        total, count = 0.0, 0
        for inputs, target in rows_of(given):
            with torch.no_grad():
                log_p = body.model(input_ids=torch.tensor([inputs + target])).logits[0].log_softmax(-1)
            total -= sum(float(log_p[len(inputs) - 1 + place, token]) for place, token in enumerate(target))
            count += len(target)
        with torch.no_grad():
            loss = objective(body, given)
        assert float(loss.total) == pytest.approx(total, rel=1e-5) and int(loss.targets) == count


def test_encoder_decoder_by_a_slow_reference() -> None:
    """The same for an encoder-decoder: what stands in the padding changes nothing."""
    objective, body = made(), anatomy.of(t5())
    given = objective.prepare({"tokens": tokens(6)}, seeded())
    total = 0.0
    for inputs, target in rows_of(given):
        with torch.no_grad():
            logits = body.model(input_ids=torch.tensor([inputs]), labels=torch.tensor([target])).logits[0]
        total += float(F.cross_entropy(logits, torch.tensor(target), reduction="sum"))
    with torch.no_grad():
        assert float(objective(body, given).total) == pytest.approx(total, rel=1e-5)
        given["input_ids"][given["attention_mask"] == 0] = 60
        assert float(objective(body, given).total) == pytest.approx(total, rel=1e-5)


def test_joining_by_hand() -> None:
    """Catches a gap between input and target, and a mask that lets the prefix look ahead."""
    joined, prefix = follow(
        torch.tensor([[5, 6, 7], [8, 0, 0]]),
        torch.tensor([[1, 1, 1], [1, 0, 0]]),
        torch.tensor([[9, 1, IGNORED], [3, 4, 1]]),
        PAD,
    )
    assert joined.tolist() == [[5, 6, 7, 9, 1], [8, 3, 4, 0, 0]] and prefix.tolist() == [3, 1]
    assert prefix_mask(torch.tensor([2]), 4).int().tolist() == [[[[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1] * 4]]]


def test_refusals() -> None:
    """Catches too few sentinels, missing modes, packed documents and models that cannot do it."""
    with pytest.raises(ConfigError, match="20 sentinels for 120 tokens"):
        alone(DENOISERS[3]).prepare({"tokens": tokens(2, 120)}, seeded())
    with pytest.raises(ConfigError, match="respect_documents"):
        made().prepare({"tokens": tokens(), "documents": torch.zeros(16, 41)}, seeded())
    with pytest.raises(ConfigError, match=r"a token for each mode[\s\S]*\[NLU\][\s\S]*special_tokens"):
        made(mode_tokens=("[NLU]", "[S2S]", "[NLG]"))
    with pytest.raises(UnsupportedModel, match="causal"):
        made().check(anatomy.of(bert()))
    with pytest.raises(UnsupportedModel, match="decoder_start_token_id"):
        made().check(anatomy.of(t5(decoder_start_token_id=None)))
    with pytest.raises(ConfigError, match="at most 40 tokens"):
        objective = made()
        objective(anatomy.of(llama(max_position_embeddings=40)), objective.prepare({"tokens": tokens()}, seeded()))
