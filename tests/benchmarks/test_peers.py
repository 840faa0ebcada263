from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import tokens
from benchmarks.meter import Meter
from benchmarks.peers import muon_loop, plain_loop, tokenizers_alone, trainer
from benchmarks.shapes import SHAPES, make_model
from benchmarks.tokens import validation_loss

TOY = SHAPES["toy"]
USED = 64
"""So many tokens of the vocabulary occur."""


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Rows in which the next token is the present one plus one: easy to learn, hard to guess."""
    draws = np.random.default_rng(0)
    for name, count in (("train", 256), ("validation", 8)):
        starts = draws.integers(0, USED, (count, 1))
        rows = (starts + np.arange(TOY.context + 1)) % USED
        np.save(tmp_path / f"{name}.npy", rows.astype(np.uint16))
    return tmp_path


def listen() -> tuple[Meter, io.StringIO]:
    sent = io.StringIO()
    return Meter(sent, io.StringIO("")), sent


def by_name(sent: io.StringIO) -> dict[str, dict[str, Any]]:
    return {event["event"]: event for event in map(json.loads, sent.getvalue().splitlines())}


def test_the_reference_model_is_the_one_that_was_agreed() -> None:
    """Catches a shape that drifts: 5,865,472 parameters in matrices and 37.55 MFLOP per token."""
    shape = SHAPES["reference"]
    assert shape.matrix_parameters == 5_865_472
    assert shape.flops_per_token == pytest.approx(37.55e6, rel=1e-3)
    matrices = sum(p.numel() for p in make_model(shape).parameters() if p.ndim == 2)
    assert matrices == sum(p.numel() for p in muon_loop.Model(shape).parameters() if p.ndim == 2) == 5_865_472


def test_the_trainer_learns_saves_and_reports(prepared: Path, tmp_path: Path) -> None:
    """Catches labels shifted twice, a schedule that never rises, and tokens that are not the ones given."""
    meter, sent = listen()
    folder = tmp_path / "model"
    options = {"tokens": 256 * TOY.context, "batch_size": 4, "learning_rate": 2e-2}
    trainer.train(meter, tokens_folder=str(prepared), folder=str(folder), shape="toy", **options)
    events = by_name(sent)
    assert events["trained"]["steps"] == 64
    assert events["trained"]["at"] <= events["evaluated"]["at"]
    assert events["evaluated"]["loss"] < 0.5 * np.log(USED)

    judge, verdict = listen()
    tokens.judge(judge, folder=str(folder), tokens_folder=str(prepared), shape="toy")
    judged = by_name(verdict)["judged"]
    assert judged["is_reference"] is True
    assert judged["loss"] == pytest.approx(events["evaluated"]["loss"], abs=0.02)


def test_another_model_is_not_the_reference(prepared: Path, tmp_path: Path) -> None:
    """Catches a recipe that wins with a model of another shape."""
    make_model(SHAPES["toy"]).save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["num_attention_heads"] = config["num_key_value_heads"] = 4
    config["head_dim"] = 8
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    meter, sent = listen()
    tokens.judge(meter, folder=str(tmp_path / "model"), tokens_folder=str(prepared), shape="toy")
    assert by_name(sent)["judged"]["is_reference"] is False


def test_the_muon_loop_learns_and_reports(prepared: Path, tmp_path: Path) -> None:
    """Catches matrices that no optimizer owns, and rates that stay at zero."""
    meter, sent = listen()
    muon_loop.train(
        meter,
        tokens_folder=str(prepared),
        folder=str(tmp_path / "model"),
        tokens=256 * TOY.context,
        batch_size=4,
        muon_rate=0.02,
        adam_rate=2e-2,
        shape="toy",
        compiled=False,
    )
    assert by_name(sent)["trained"]["steps"] == 64
    assert by_name(sent)["evaluated"]["loss"] < 0.5 * np.log(USED)
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_the_muon_loop_is_causal() -> None:
    """Catches attention that sees the future, which would set an impossible mark."""
    torch.manual_seed(0)
    model = muon_loop.Model(TOY)
    for block in model.blocks:
        torch.nn.init.normal_(block.output.weight)
    ids = torch.randint(TOY.vocab_size, (1, TOY.context))
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % TOY.vocab_size
    torch.testing.assert_close(model(ids)[:, :-1], model(changed)[:, :-1])
    assert not torch.allclose(model(ids)[:, -1], model(changed)[:, -1])


def test_warm_up_stable_decay_rises_stays_and_falls_to_zero() -> None:
    """Catches a peer that is handicapped by its schedule."""
    factors = [muon_loop.warmup_stable_decay(step, 100, 10, 0.4) for step in range(100)]
    assert factors[0] == 0.1
    assert factors[9:61] == [1.0] * 52
    assert factors[80] == pytest.approx(0.5)
    assert 0 < factors[99] < 0.03


def test_the_plain_loop_descends() -> None:
    """Catches an update that goes up, or none."""
    model = make_model(TOY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    rows = torch.randint(TOY.vocab_size, (4, TOY.context + 1))
    losses = [float(plain_loop.update(partial(plain_loop.mean_loss, model), model, optimizer, rows)) for _ in range(12)]
    assert losses[0] == pytest.approx(np.log(TOY.vocab_size), abs=0.3)
    assert losses[-1] < 0.8 * losses[0]


def test_validation_counts_every_target_once(prepared: Path) -> None:
    """Catches a mean over batches of unequal size, or targets that are the inputs."""
    assert validation_loss(
        lambda ids: torch.zeros(*ids.shape, TOY.vocab_size), prepared, batch_size=3
    ) == pytest.approx(np.log(TOY.vocab_size), rel=1e-5)
    exact = lambda ids: 50.0 * torch.nn.functional.one_hot((ids + 1) % USED, TOY.vocab_size)  # noqa: E731
    assert validation_loss(exact, prepared) < 1e-4


def test_tokenizers_alone_encodes_what_it_is_given(tmp_path: Path) -> None:
    """Catches a yardstick that does less work than pomona."""
    documents = tmp_path / "documents.jsonl"
    texts = ["the apple falls", "the apple tree stands"] * 8
    documents.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    meter, sent = listen()
    tokenizers_alone.train_and_encode(meter, documents=str(documents), vocab_size=300)
    assert [json.loads(line)["event"] for line in sent.getvalue().splitlines()] == ["read", "tokenizer", "encoded"]
    assert by_name(sent)["read"]["documents"] == 16
    assert 16 <= by_name(sent)["encoded"]["tokens"] <= sum(map(len, texts))
