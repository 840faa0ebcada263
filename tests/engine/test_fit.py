"""The training loop: equal runs coincide, resumed runs coincide, and every fault has its outcome."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from pomona.engine import Batch, FitConfig, Ledger, Training, fit, read_metrics
from pomona.engine.guards import GuardConfig
from pomona.ground.errors import ConfigError, TrainingDiverged, TrainingStopped
from pomona.objectives.next_token import NextToken
from tests.engine.conftest import ToyStream

Make = Callable[[], LlamaForCausalLM]


def flat(step: int) -> float:
    return 1.0


def run(
    model: LlamaForCausalLM, *, steps: int = 6, stream: Any = None, folder: Path | None = None, **config: Any
) -> Training:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    settings = FitConfig(**{"compile": "never", "precision": "fp32", "log_every": 1, **config})
    return fit(model, NextToken(), stream or ToyStream(), optimizer, flat, steps=steps, config=settings, folder=folder)


def weights(model: LlamaForCausalLM) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_identical(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def test_it_learns_what_can_be_learnt(tiny: Make) -> None:
    """Counting is learnt in some dozen steps unless labels, gradients or updates are wrong."""
    model = tiny()
    training = run(model, steps=80)
    assert training.records[0]["loss"] > 3.5
    assert training.records[-1]["loss"] < 0.3


def test_accumulation_is_exact(tiny: Make) -> None:
    """A batch cut into micro-batches with unequal numbers of counted targets gives the gradients of the whole."""

    class Uneven(ToyStream):
        def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
            whole = super().batch(step, rank)[0]["tokens"]
            documents = torch.zeros_like(whole)
            documents[:3, 5:] = 1  # the first token of the second document is not counted
            return [
                {"tokens": t, "documents": d}
                for t, d in zip(whole.chunk(micro_batches), documents.chunk(micro_batches), strict=True)
            ]

    results = []
    for parts in (1, 4):
        model = tiny()
        model.config.attention_dropout = 0.0
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        run(model, steps=3, stream=Uneven(), micro_batches=parts)
        results.append(weights(model))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-6)


def test_gradients_are_those_of_the_mean_loss_and_are_clipped(tiny: Make) -> None:
    """Catches a sum in the place of a mean, and a clip that does not reach the update; AdamW would hide a factor, so
    this one step is plain gradient descent."""
    start = tiny().eval()
    raw = ToyStream().batch(0)[0]["tokens"]
    start(input_ids=raw[:, :-1], labels=raw[:, :-1], shift_labels=raw[:, 1:].contiguous()).loss.backward()
    gradients = {name: parameter.grad for name, parameter in start.named_parameters() if parameter.grad is not None}
    norm = float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())
    for clip, factor in ((None, 1.0), (norm / 4, 0.25), (4 * norm, 1.0)):
        model = tiny()
        model.config.attention_dropout = 0.0
        for block in model.model.layers:
            block.self_attn.attention_dropout = 0.0
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        config = FitConfig(compile="never", precision="fp32", clip=clip)
        training = fit(model, NextToken(), ToyStream(), optimizer, flat, steps=1, config=config)
        assert training.records[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)
        before = weights(start)
        for name, value in weights(model).items():
            torch.testing.assert_close(value, before[name] - 0.5 * factor * gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_resumed_run_is_bit_identical(tiny: Make, tmp_path: Path, ema: float | None) -> None:
    """Anything missing from a checkpoint (moments, EMA, dropout, data position) would show in the last bit."""
    whole = tiny()
    run(whole, steps=9, folder=tmp_path / "whole", ema=ema)

    class Interrupting(ToyStream):
        def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step, rank, micro_batches=micro_batches)

    first = tiny()
    with pytest.raises(TrainingStopped, match="repeat the same command") as stopped:
        run(first, steps=9, stream=Interrupting(), folder=tmp_path / "cut", ema=ema)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    second = tiny()
    training = run(second, steps=9, folder=tmp_path / "cut", ema=ema)
    assert_identical(weights(whole), weights(second))
    expected = read_metrics(tmp_path / "whole/metrics.jsonl")
    found = read_metrics(tmp_path / "cut/metrics.jsonl")
    timed = {"seconds", "tokens_per_second"}
    assert [{k: v for k, v in r.items() if k not in timed} for r in found] == [
        {k: v for k, v in r.items() if k not in timed} for r in expected
    ]
    assert training.ledger.tokens == 9 * 8 * 16


def test_records_after_the_checkpoint_are_dropped(tiny: Make, tmp_path: Path) -> None:
    """A run killed after its last checkpoint has logged steps that will be made again: none may appear twice."""
    run(tiny(), steps=3, folder=tmp_path)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    run(tiny(), steps=3, folder=tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


def test_a_damaged_checkpoint_is_passed_over(tiny: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest intact state is used and the damaged one is named."""
    whole = tiny()
    run(whole, steps=6, folder=tmp_path / "whole")
    run(tiny(), steps=6, folder=tmp_path / "cut", checkpoint_minutes=1e-9, keep_checkpoints=5)
    (tmp_path / "cut/checkpoints/step-00000005/model.safetensors").write_bytes(b"nothing")
    again = tiny()
    run(again, steps=6, folder=tmp_path / "cut")
    assert_identical(weights(whole), weights(again))
    assert "step-00000005" in capsys.readouterr().err


def test_the_ledger_counts_flops_that_were_executed(tiny: Make) -> None:
    """Six FLOPs per weight and token plus attention: a formula that the counted value must agree with."""
    model = tiny()
    training = run(model, steps=2)
    linear = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2)
    attention = 12 * 2 * 32 * 16  # layers, hidden, keys per query: scores and values, forward and backward
    per_token = training.ledger.of("train").flops / training.ledger.tokens
    assert per_token == pytest.approx(6 * linear + attention, rel=1e-6)


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_steps_with_non_finite_gradients_change_nothing(tiny: Make, fault: float) -> None:
    """One bad batch must not reach weights or moments."""

    class Poisoned(NextToken):
        calls = 0

        def __call__(self, body: Any, batch: Batch) -> Any:
            loss = super().__call__(body, batch)
            self.calls += 1
            if self.calls == 3:  # one call measures FLOPs, one makes the first step
                loss.total = loss.total * fault
            return loss

    model, clean = tiny(), tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    config = FitConfig(compile="never", precision="fp32")
    training = fit(model, Poisoned(), ToyStream(), optimizer, flat, steps=2, config=config)
    assert training.ledger.skipped_steps == 1
    run(clean, steps=1)
    assert_identical(weights(model), weights(clean))
    assert {float(state["step"]) for state in optimizer.state.values()} == {1.0}


def test_a_run_that_cannot_recover_stops(tiny: Make) -> None:
    """Skipping for ever would burn compute silently."""

    class Hopeless(NextToken):
        def __call__(self, body: Any, batch: Batch) -> Any:
            loss = super().__call__(body, batch)
            loss.total = loss.total * float("nan")
            return loss

    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    config = FitConfig(compile="never", guards=GuardConfig(max_skipped_in_a_row=2))
    with pytest.raises(TrainingDiverged, match="lower the learning rate") as caught:
        fit(model, Hopeless(), ToyStream(), optimizer, flat, steps=9, config=config)
    assert caught.value.spent is not None and caught.value.spent["purposes"]["train"]["tokens"] == 8 * 16


def test_a_folder_of_a_longer_run_is_refused(tiny: Make, tmp_path: Path) -> None:
    """Returning a model that was trained for longer than asked would be silent nonsense."""
    run(tiny(), steps=6, folder=tmp_path, checkpoint_minutes=1e-9)
    with pytest.raises(ConfigError, match="choose another folder"):
        run(tiny(), steps=3, folder=tmp_path)


def test_bfloat16_follows_float32(tiny: Make) -> None:
    """Autocast must not change what is learnt, only round it."""
    losses = [run(tiny(), steps=30, precision=precision).records[-1]["loss"] for precision in ("fp32", "bf16")]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_ledgers_survive_json() -> None:
    """Resuming rebuilds the ledger from JSON: equal to the last digit."""
    ledger = Ledger()
    ledger.charge("train", flops=1e15 / 3, seconds=0.1 + 0.2, tokens=7)
    ledger.charge("sweep", flops=5.0)
    again = Ledger.from_dict(json.loads(json.dumps(ledger.to_dict())))
    assert again == ledger
    assert again.flops == 1e15 / 3
