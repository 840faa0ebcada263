"""No positions, a context that alone is looked at, on words and on images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.anatomy.tiny import tiny_model
from pomona.data import ImageStream, read_images
from pomona.engine import FitConfig, attach, fit
from pomona.engine.protocols import IGNORED
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.objectives import Mp3, Mp3Config
from pomona.optimizers import AdamwConfig
from tests.objectives.test_conformance import FAMILIES, batch, flat, seeded
from tests.tiny import llama

WORDS = ["bert", "roberta", "electra", "rotary"]
IMAGES = ["vit", "deit", "dinov2", "dinov2_with_registers"]


def made(family: str, **changes: Any) -> tuple[Mp3, Anatomy]:
    """An objective and the tiny model that it was attached to, with weights that are large enough to tell."""
    body = anatomy.of(FAMILIES[family]() if family in FAMILIES else tiny_model(family))
    for parameter in body.model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2, generator=seeded())
    objective = Mp3Config(**changes).build()
    attach(objective, body, seed=0)
    body.model.eval()
    return objective, body


def given(objective: Mp3, family: str, rows: int = 2) -> dict[str, Tensor]:
    if family in WORDS:
        return objective.prepare(batch(rows, 20), seeded())
    return objective.prepare({"pixel_values": torch.randn(rows, 3, 16, 16, generator=seeded())}, seeded())


def moved(prepared: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """The same tokens, or patches of 4 pixels, at other places; the context moves along."""
    other = dict(prepared)
    other["context"] = prepared["context"][:, order]
    if "input_ids" in prepared:
        other["input_ids"] = prepared["input_ids"][:, order]
        return other
    patches = torch.nn.functional.unfold(prepared["pixel_values"], 4, stride=4)[:, :, order]
    other["pixel_values"] = torch.nn.functional.fold(patches, 16, 4, stride=4)
    return other


@torch.no_grad()
@pytest.mark.parametrize("family", [*WORDS, *IMAGES])
def test_nothing_tells_the_order(family: str) -> None:
    """Tokens at other places give the same logits at those places: catches a position that is left in the input, in a
    table, in a rotation or in a class token."""
    objective, body = made(family)
    prepared = given(objective, family)
    order = torch.randperm(prepared["context"].shape[1], generator=seeded())
    logits, other = objective.logits(body, prepared), objective.logits(body, moved(prepared, order))
    torch.testing.assert_close(other, logits[:, order], rtol=1e-4, atol=1e-4)
    assert (logits[:, 0] - logits[:, 1]).abs().max() > 1e-2  # tokens do differ


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "rotary", "vit", "dinov2_with_registers"])
def test_only_the_context_is_looked_at(family: str) -> None:
    """What is outside of the context matters to itself alone, in every block; the context matters to all. Catches a
    mask on queries, and a class token that carries what it has seen."""
    objective, body = made(family)
    prepared = given(objective, family)
    logits = objective.logits(body, prepared)
    context = prepared["context"]
    for inside in (False, True):
        place = int((context[0] == inside).nonzero()[0])
        other = {name: tensor.clone() for name, tensor in prepared.items()}
        if "input_ids" in other:
            other["input_ids"][0, place] = 50
        else:
            row, column = 4 * (place // 4), 4 * (place % 4)
            other["pixel_values"][0, :, row : row + 4, column : column + 4] += 1.0
        change = (objective.logits(body, other) - logits).abs().amax(-1)
        assert not change[1].any() and change[0, place] > 1e-3
        rest = torch.arange(context.shape[1]) != place
        assert bool((change[0, rest] > 1e-6).all()) == inside and bool(change[0, rest].any()) == inside


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "rotary"])
def test_masking_is_gathering(family: str) -> None:
    """The slow reference: the context alone, as a sequence of its own, has the states that it has among all tokens."""
    objective, body = made(family)
    prepared = given(objective, family, rows=1)
    context = prepared["context"][0]
    alone = {
        "input_ids": prepared["input_ids"][:, context],
        "context": torch.ones(1, int(context.sum()), dtype=torch.bool),
    }
    together, apart = objective.logits(body, prepared), objective.logits(body, alone)
    count = alone["context"].shape[1]
    torch.testing.assert_close(together[:, context, :count], apart, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_limits() -> None:
    """At eta 0 all tokens are context, and attention is the model's own; equal tokens have equal logits, so the loss
    cannot be below log N; the share of the context is exact."""
    objective, body = made("bert", eta=0.0)
    prepared = given(objective, "bert")
    assert prepared["context"].all()
    assert objective.head is not None
    ids = prepared["input_ids"]
    own = objective.head(body.hidden(input_ids=ids, position_ids=torch.zeros_like(ids)))[..., :20]
    torch.testing.assert_close(objective.logits(body, prepared), own, rtol=1e-5, atol=1e-5)
    objective, body = made("bert")
    prepared = given(objective, "bert")
    assert (prepared["context"].sum(1) == 5).all()
    prepared["input_ids"][:] = 40
    logits = objective.logits(body, prepared)
    torch.testing.assert_close(logits, logits[:, :1].expand_as(logits), rtol=1e-4, atol=1e-4)
    loss = objective(body, prepared)
    assert float(loss.total) / int(loss.targets) >= float(torch.tensor(20.0).log()) - 1e-4


def test_which_tokens_count() -> None:
    """Catches a switch without effect, and labels that are not the places."""
    for loss_on, count in (("all", 20), ("masked", 15), ("context", 5)):
        prepared = given(Mp3Config(loss_on=loss_on).build(), "bert")  # type: ignore[arg-type]
        counted = prepared["labels"] != IGNORED
        assert (counted.sum(1) == count).all()
        assert torch.equal(prepared["labels"][counted], torch.arange(20).repeat(2, 1)[counted])
        assert loss_on == "all" or bool((prepared["context"][counted]).all()) == (loss_on == "context")


def test_images_are_learnt_and_positions_stay_away() -> None:
    """On glyphs the place of patches is found better than by chance after a few steps; catches a table of positions
    that comes back while it trains, and a loop that asks for words."""
    images = read_images("env:glyphs", size=16, channels=3, count=128)
    body = anatomy.of(tiny_model("vit").train())
    objective = Mp3Config(eta=0.5).build()
    attach(objective, body, seed=0)
    optimizer = AdamwConfig(learning_rate=0.003).build(body, total_steps=60)
    stream = ImageStream(images, batch_size=32)
    config = FitConfig(compile="never", precision="fp32", log_every=30)
    training = fit(body.model, objective, stream, optimizer, flat, steps=60, config=config, validation=stream.batch(99))
    assert body.positions is not None and not body.positions.parameter.any()
    assert training.ledger.tokens == 60 * 32 * 16 and training.ledger.flops > 0
    assert training.quality is not None and training.quality.accuracy is not None
    assert training.quality.accuracy > 2.5 / 16 and training.quality.nats_per_token < 2.7


def test_refusals() -> None:
    """Catches positions that cannot be taken away, and heads that are too short."""
    for name, reason in (("deberta-v2", "relative|disentangled"), ("modernbert", "sliding window")):
        with pytest.raises(UnsupportedModel, match=reason):
            attach(Mp3Config().build(), anatomy.of(tiny_model(name)), seed=0)
    with pytest.raises(UnsupportedModel, match="bidirectional"):
        Mp3Config().build().check(anatomy.of(llama()))
    with pytest.raises(UnsupportedModel, match="no head for"):
        Mp3Config().build().check(anatomy.of(FAMILIES["bert"]()))
    objective, body = made("bert", places=8)
    with pytest.raises(ConfigError, match="at most 8 tokens"):
        objective(body, given(objective, "bert"))
