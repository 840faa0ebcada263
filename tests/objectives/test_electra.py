"""Replaced tokens: what is picked, drawn and labelled, what the networks share, and both losses by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.anatomy.tiny import tiny_model
from pomona.engine import AuxiliaryObjective, attach, measure_flops
from pomona.engine.auxiliary import keep, recall
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.objectives import Electra, ElectraConfig, MaskedLmConfig
from pomona.objectives.electra import choose_again, tells_tokens
from pomona.objectives.generator import Generator, sample
from pomona.optimizers import AdamwConfig
from tests.objectives.test_conformance import FAMILIES, batch, seeded, tokenizer
from tests.tiny import VOCABULARY, bert, llama, t5

SPECIAL = torch.arange(VOCABULARY) < 16
ENCODERS = ["bert", "roberta", "electra", "discriminator"]
every_encoder = pytest.mark.parametrize("family", ENCODERS)


def made(family: str = "bert", **changes: Any) -> tuple[Electra, Anatomy]:
    """An objective and the tiny model that it was attached to."""
    objective = ElectraConfig(**changes).build(tokenizer())
    body = anatomy.of(FAMILIES[family]())
    attach(objective, body, seed=0)
    return objective, body


def prepared(objective: Electra, rows: int = 4, length: int = 40) -> dict[str, Tensor]:
    return objective.prepare(batch(rows, length), seeded())


def watch(objective: Electra, body: Anatomy, given: dict[str, Tensor]) -> tuple[Any, Tensor]:
    """The loss, and the text that the discriminator read."""
    read: list[Tensor] = []
    hidden = body.hidden

    def noting(**inputs: Any) -> Tensor:
        read.append(inputs["input_ids"])
        return hidden(**inputs)

    body.hidden = noting  # type: ignore[method-assign]
    loss = objective(body, given)
    body.hidden = hidden  # type: ignore[method-assign]
    return loss, read[-1]


def test_what_is_picked() -> None:
    """85 % masked, the rest as it is, the numbers exact, special tokens never: catches the 80/10/10 rule and labels
    that are not the whole original text."""
    objective = ElectraConfig().build(tokenizer())
    raw = batch(400, 100)
    raw["tokens"][:, ::4] = 1
    given = objective.prepare(raw, seeded())
    picked, tokens = given["picked"], raw["tokens"][:, :-1]
    assert torch.equal(given["labels"], tokens) and (picked.sum(1) == round(0.15 * 75)).all()
    assert not (picked & SPECIAL[tokens]).any() and not SPECIAL[given["others"]].any()
    masked = given["input_ids"] == 2
    assert not (masked & ~picked).any() and torch.equal(given["input_ids"][~masked], tokens[~masked])
    share = float(masked.sum() / picked.sum())
    assert share == pytest.approx(0.85, abs=4 * (0.85 * 0.15 / int(picked.sum())) ** 0.5)


def test_picking_with_replacement() -> None:
    """Draws that coincide collapse: the expected number of different ones among n candidates is n (1 - (1 - 1/n)^k)."""
    candidates = torch.ones(4000, 20, dtype=torch.bool)
    candidates[:, ::2] = False
    chosen = choose_again(candidates, torch.full((4000,), 3), seeded())
    assert not (chosen & ~candidates).any() and chosen.sum(1).min() >= 1 and chosen.sum(1).max() == 3
    assert float(chosen.sum(1).float().mean()) == pytest.approx(10 * (1 - 0.9**3), abs=0.03)
    assert not choose_again(torch.zeros(2, 5, dtype=torch.bool), torch.ones(2, dtype=torch.long), seeded()).any()


def test_sampling() -> None:
    """Tokens come as often as the distribution says; catches a wrong temperature, a barred token that is drawn, and a
    limit that is not the best guess."""
    logits = torch.tensor([[2.0, 0.0, 1.0]]).expand(40_000, 3)
    chances = torch.rand(40_000, generator=seeded())
    for temperature in (1.0, 2.0):
        counts = torch.bincount(sample(logits, chances, temperature=temperature), minlength=3) / 40_000
        assert (counts - (logits[0] / temperature).softmax(0)).abs().max() < 0.01
    assert (sample(logits, chances, temperature=0.0) == 0).all()
    barred = torch.zeros(40_000, dtype=torch.long)
    counts = torch.bincount(sample(logits, chances, temperature=1.0, barred_P=barred), minlength=3) / 40_000
    assert counts[0] == 0 and float(counts[2]) == pytest.approx(1 / (1 + torch.e**-1), abs=0.01)


@every_encoder
@torch.no_grad()
def test_losses_by_a_slow_reference(family: str) -> None:
    """Both losses and the counts, position by position: catches samples written into the masked text, labels at every
    picked position, a mean over the wrong tokens, and weights exchanged."""
    objective, body = made(family)
    given = prepared(objective)
    loss, corrupted = watch(objective, body, given)
    tokens, picked = given["labels"], given["picked"]
    assert objective.generator is not None
    assert torch.equal(corrupted[~picked], tokens[~picked])
    logits = objective.generator(picked, input_ids=given["input_ids"])
    drawn = sample(logits, given["chances"][picked], temperature=1.0)
    assert torch.equal(corrupted[picked], drawn) and not (corrupted[picked] == 2).all()
    generator = discriminator = 0.0
    scores = objective.scores(body, body.hidden(input_ids=corrupted))
    for row in range(4):
        places = picked[row].nonzero().flatten().tolist()
        start = int(picked[:row].sum())
        own = [F.cross_entropy(logits[start + n], tokens[row, place]) for n, place in enumerate(places)]
        generator += float(sum(own)) / len(own) / 4
        for place in range(40):
            wrong = corrupted[row, place] != tokens[row, place]
            discriminator += float(-F.logsigmoid(scores[row, place] * (1 if wrong else -1))) / 160
    assert float(loss.total.detach()) / loss.targets == pytest.approx(generator + 50 * discriminator, rel=1e-5)
    assert float(loss.parts["generator"]) / 160 == pytest.approx(generator, rel=1e-5)
    assert float(loss.parts["discriminator"]) / 160 == pytest.approx(discriminator, rel=1e-5)
    assert int(loss.parts["replaced"]) == int((corrupted != tokens).sum()) <= int(picked.sum())


def test_a_lucky_guess_is_original() -> None:
    """With a generator that returns the original tokens nothing was replaced; with one that may not, all is."""
    objective, body = made(temperature=0.0)
    given = prepared(objective)

    def right(picked: Tensor, **inputs: Tensor) -> Tensor:
        return F.one_hot(given["labels"][picked], VOCABULARY).float() * 9

    objective.generator.forward = right  # type: ignore[union-attr, method-assign]
    loss, corrupted = watch(objective, body, given)
    assert torch.equal(corrupted, given["labels"]) and int(loss.parts["replaced"]) == 0
    other, body = made(disallow_correct=True)
    loss, corrupted = watch(other, body, given)
    assert int(loss.parts["replaced"]) == int(given["picked"].sum())


@every_encoder
def test_only_the_embeddings_join_the_networks(family: str) -> None:
    """The discriminator's loss reaches the generator through the shared tables alone, and the generator's loss leaves
    the model's blocks alone: catches a gradient through sampling, and tables that are copies."""
    for weight, reached in ((0.0, False), (1.0, True)):
        objective, body = made(family, generator_weight=weight)
        objective(body, prepared(objective)).total.backward()
        assert objective.generator is not None
        grads = [p.grad for p in objective.generator.parameters() if p.requires_grad]
        assert any(grad is not None and grad.any() for grad in grads) == reached
        assert body.embedding is not None
        grad = body.embedding.parameter.grad
        assert grad is not None and grad.any()
    own = {id(parameter) for parameter in body.model.parameters()}
    assert not any(id(parameter) in own for parameter in objective.parameters())
    objective, body = made(family, discriminator_weight=1e-30)
    objective(body, prepared(objective)).total.backward()
    assert body.embedding is not None and float(body.embedding.parameter.grad.abs().max()) > 1e-6  # type: ignore[union-attr]
    assert all(float(p.grad.abs().max()) < 1e-20 for _, p in body.matrices() if p.grad is not None)


def test_weights_and_picked_tokens_alone() -> None:
    """The head's gradient is 50 times that of the mean; with loss_on=picked, the loss is the mean over picked ones."""
    objective, body = made("discriminator", generator_weight=0.0)
    given = prepared(objective)
    grads = []
    for weight in (50.0, 1.0):
        objective.config = objective.config.model_copy(update={"discriminator_weight": weight})
        body.model.zero_grad(set_to_none=True)
        objective(body, given).total.backward()
        assert body.head is not None and body.head.parameter.grad is not None
        grads.append(body.head.parameter.grad)
    torch.testing.assert_close(grads[0], 50 * grads[1])
    objective.config = objective.config.model_copy(update={"loss_on": "picked"})
    loss, corrupted = watch(objective, body, given)
    scores = objective.scores(body, body.hidden(input_ids=corrupted))
    each = F.binary_cross_entropy_with_logits(scores, (corrupted != given["labels"]).float(), reduction="none")
    assert float(loss.total.detach()) / loss.targets == pytest.approx(
        float(each.detach()[given["picked"]].mean()), rel=1e-5
    )


def test_sizes_of_the_generator() -> None:
    """Catches heads of another size, another depth, and a generator as large as the model."""
    body = anatomy.of(tiny_model("bert", hidden_size=48, num_attention_heads=6, intermediate_size=96))
    small = Generator(body, ratio=1 / 3, shared=True).body
    assert (small.hidden_size, small.blocks[0].attention.num_heads, small.blocks[0].ffn.width) == (16, 2, 32)
    assert small.blocks[0].attention.head_dim.size == 8 and len(small.blocks) == len(body.blocks)
    apart = Generator(body, ratio=1.0, shared=False)
    assert apart.body.vocab_size == VOCABULARY and apart.projection is None
    objective, body = made(generator_size=1.0)
    alone = MaskedLmConfig().build(tokenizer())
    plain = measure_flops(body, alone, alone.prepare(batch(), seeded()))
    assert measure_flops(body, objective, prepared(objective)) > 1.7 * plain


@pytest.mark.parametrize("source", ["unigram", "uniform"])
def test_without_a_network(source: Any) -> None:
    """Replacements from the batch or from all tokens: nothing is trained beside the head."""
    objective, body = made(generator=source)
    assert {name.partition(".")[0] for name, _ in objective.named_parameters()} == {"head"}
    given = prepared(objective)
    loss, corrupted = watch(objective, body, given)
    assert torch.equal(corrupted[given["picked"]], given["others"][given["picked"]]) and set(loss.parts) == {
        "discriminator",
        "replaced",
    }
    if source == "unigram":
        assert set(given["others"].flatten().tolist()) <= set(given["labels"].flatten().tolist())


def test_the_optimizer_takes_both_networks() -> None:
    """Catches a generator that is never updated, shared tables that are updated twice, and matrices of the generator
    that an optimizer takes for a head."""
    objective, body = made()
    optimizer = AdamwConfig(weight_decay=0.3).build(body, total_steps=1)
    given = [id(p) for group in optimizer.param_groups for p in group["params"]]
    wanted = {id(p) for m in (body.model, objective) for p in m.parameters() if p.requires_grad}
    assert len(given) == len(set(given)) and set(given) == wanted
    groups = {group["name"]: {id(p) for p in group["params"]} for group in optimizer.param_groups}
    assert objective.generator is not None
    assert {id(p) for _, p in objective.generator.body.matrices()} <= groups["matrices"]


def test_networks_beside_a_folder(tmp_path: Path) -> None:
    """Catches networks that a later stage cannot go on with, or that are taken for those of another model."""
    objective, _ = made()
    keep(objective, tmp_path)
    same, _ = made()
    with torch.no_grad():
        for parameter in same.parameters():
            parameter.zero_()
    assert recall(tmp_path, same)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), objective.parameters(), strict=True))
    other, _ = made(generator_size=1.0)
    assert not recall(tmp_path, other) and not recall(tmp_path / "nowhere", same)
    keep(ElectraConfig().build(tokenizer()), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_finished_discriminator_is_scored_alone() -> None:
    """A model that has its head needs no generator; one without is refused, by name and with a way out."""
    objective = ElectraConfig().build(tokenizer())
    assert isinstance(objective, AuxiliaryObjective) and objective.generator is None
    body = anatomy.of(FAMILIES["discriminator"]())
    assert tells_tokens(body) and not tells_tokens(anatomy.of(bert()))
    loss = objective(body, prepared(objective))
    assert set(loss.parts) == {"discriminator", "replaced"}
    with pytest.raises(UnsupportedModel, match="gives one number for each token"):
        objective.check(anatomy.of(bert()))


def test_documents_stay_apart() -> None:
    """Catches a generator or a discriminator that reads across a border."""
    objective, body = made()
    raw = batch(1, 20)
    raw["documents"] = torch.tensor([[0] * 10 + [1] * 11])
    one = objective.prepare(raw, seeded())
    other = {name: tensor.clone() for name, tensor in one.items()}
    other["input_ids"][:, 3] = 40
    assert objective.generator is not None
    picked = torch.zeros(1, 20, dtype=torch.bool)
    picked[:, [5, 15]] = True

    def logits(given: dict[str, Tensor]) -> Tensor:
        from pomona.objectives.documents import block_diagonal_mask

        assert objective.generator is not None
        mask = block_diagonal_mask(given["documents"], body)
        return objective.generator(
            picked, input_ids=given["input_ids"], position_ids=given["position_ids"], attention_mask=mask
        )

    change = (logits(one) - logits(other)).abs().amax(1)
    assert change[0] > 0 and change[1] == 0
    assert torch.isfinite(objective(body, one).total)


def test_refusals() -> None:
    """Catches models that see one side only, and a vocabulary without a mask."""
    for model in (llama(), t5()):
        with pytest.raises(UnsupportedModel, match="bidirectional"):
            attach(ElectraConfig().build(tokenizer()), anatomy.of(model), seed=0)

    class Plain:
        mask_token_id = None

    with pytest.raises(ConfigError, match="electra needs a mask token"):
        ElectraConfig().build(Plain())
