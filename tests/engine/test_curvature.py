"""Curvature passes: the estimates are what they claim to be, and they disturb nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from pomona import anatomy
from pomona.engine import IGNORED, Batch, FitConfig, Loss, Training, fit, head_loss, linear_cross_entropy, read_metrics
from pomona.engine.curvature import curvature_pass
from pomona.engine.head_loss import differentiable_twice, drawn_labels
from pomona.engine.protocols import CurvatureRequest
from pomona.ground.errors import ConfigError, TrainingStopped
from pomona.objectives.masked_lm import MaskedLm, MaskedLmConfig
from pomona.objectives.next_token import NextToken
from pomona.optimizers import SophiaConfig
from tests.engine.conftest import VOCABULARY, ToyStream
from tests.tiny import bert

Make = Callable[[], LlamaForCausalLM]
ESTIMATORS = ("sampled-labels", "hutchinson")


def flat(step: int) -> float:
    return 1.0


class Listener(torch.optim.SGD):
    """Plain descent that writes down the estimates it is given."""

    def __init__(self, model: nn.Module, estimator: Any, every: int = 2, share: float = 1.0, lr: float = 0.0) -> None:
        super().__init__([parameter for parameter in model.parameters() if parameter.requires_grad], lr=lr)
        self.curvature = CurvatureRequest(estimator, every, share)
        self.heard: list[list[Tensor]] = []

    def update_curvature(self) -> None:
        self.heard.append([p.grad.clone() for group in self.param_groups for p in group["params"]])


def listen(
    model: Any, optimizer: Any, objective: Any = None, *, steps: int = 2, stream: Any = None, **config: Any
) -> Training:
    settings = FitConfig(**{"compile": "never", "precision": "fp32", "log_every": 1, "clip": None, **config})
    return fit(model, objective or NextToken(), stream or ToyStream(), optimizer, flat, steps=steps, config=settings)


def test_labels_are_drawn_from_the_prediction() -> None:
    """Catches an argmax, a shifted index, a token of probability 0, and a row that does not count being given one."""
    logits = torch.tensor([2.0, -1.0, 0.5, -40.0, 1.0]).expand(40_000, 5)
    labels = torch.zeros(40_000, dtype=torch.int64)
    labels[::4] = IGNORED
    draws = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    drawn = drawn_labels(logits, labels, draws)
    assert torch.equal(drawn == IGNORED, labels == IGNORED)
    shares = torch.bincount(drawn[drawn != IGNORED], minlength=5) / 30_000
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.01, rtol=0)
    assert shares[3] == 0
    assert torch.equal(drawn_labels(logits[7:9], labels[7:9], draws[7:9]), drawn[7:9])
    edges = drawn_labels(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), torch.tensor([0.0, 1 - 2**-24]))
    assert edges.tolist() == [0, 3]


@pytest.mark.parametrize("twice", [False, True])
def test_loss_and_gradient_to_drawn_labels(twice: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the true label, or another chunk's draw, in the value or the gradient."""
    import sys

    monkeypatch.setattr(sys.modules[linear_cross_entropy.__module__], "CHUNK_ELEMENTS", 30)
    hidden, weight = torch.randn(11, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    labels = torch.tensor([0, 6, 3, IGNORED, 2, 2, 5, IGNORED, 1, 4, 0])
    draws = torch.rand(11)
    expected = F.cross_entropy(
        hidden @ weight.T, drawn_labels(hidden.detach() @ weight.detach().T, labels, draws), reduction="sum"
    )
    wanted = torch.autograd.grad(expected, (hidden, weight))
    if twice:
        with differentiable_twice():
            total, _ = linear_cross_entropy(hidden, weight, None, labels, draws)
    else:
        total, _ = linear_cross_entropy(hidden, weight, None, labels, draws)
    torch.testing.assert_close(total, expected)
    for found, right in zip(torch.autograd.grad(total, (hidden, weight)), wanted, strict=True):
        torch.testing.assert_close(found, right)


def test_a_head_of_several_maps_draws_too() -> None:
    """Catches BERT's head scoring the true labels."""
    body = anatomy.of(bert().eval())
    assert body.head_weight() is None
    hidden, labels = torch.randn(2, 6, body.hidden_size), torch.zeros(2, 6, dtype=torch.int64)
    labels[:, 3:] = IGNORED
    draws = torch.rand(2, 6)
    total, _ = head_loss(body, hidden, labels, draws)
    logits = body.logits(hidden[:, :3])
    wanted = drawn_labels(logits.flatten(0, 1), labels[:, :3].flatten(), draws[:, :3].flatten())
    torch.testing.assert_close(total, F.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum"))


def test_sampled_labels_estimate_the_gauss_newton_diagonal() -> None:
    """Catches a missing factor B, the empirical Fisher (true labels), and a mean over sequences in place of tokens:
    for a linear softmax the expectation is the mean over b of x_i^2 p_v (1 - p_v)."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(6, 3, generator=generator), torch.randn(4, 3, generator=generator, requires_grad=True)
    p = (hidden @ weight.detach().T).softmax(-1)
    exact = torch.einsum("bv,bi->vi", p * (1 - p), hidden**2) / 6
    labels, mean = torch.zeros(6, dtype=torch.int64), torch.zeros(4, 3)
    for _ in range(4000):
        total, _ = linear_cross_entropy(hidden, weight, None, labels, torch.rand(6, generator=generator))
        (grad,) = torch.autograd.grad(total / 6, weight)
        mean += 6 * grad * grad / 4000
    torch.testing.assert_close(mean, exact, rtol=0.1, atol=0.004)
    assert float((mean - exact).abs().sum() / exact.sum()) < 0.05


def test_the_pass_is_b_times_the_squared_mean_gradient(tiny: Make) -> None:
    """Catches sums where means belong, a pass in evaluation mode, and draws that depend on anything but the step."""
    model = without_dropout(tiny())
    optimizer = Listener(model, "sampled-labels", every=1)
    listen(model, optimizer, steps=1)
    (estimate,) = optimizer.heard
    assert all((each >= 0).all() for each in estimate)
    batch = NextToken().prepare(ToyStream().batch(0)[0])
    from pomona.engine.seeds import mix

    draws = torch.rand(8, 16, generator=torch.Generator().manual_seed(mix(0, 1, 0, 1)))
    body = anatomy.of(model)
    NextToken()(body, {**batch, "draws": draws}).total.div(8 * 16).backward()
    for found, parameter in zip(estimate, model.parameters(), strict=True):
        torch.testing.assert_close(found, 8 * 16 * parameter.grad**2, rtol=1e-4, atol=1e-9)


def test_hutchinson_estimates_the_diagonal_of_the_hessian(tiny: Make) -> None:
    """Catches a sign, a missing probe, the sum of losses, and kernels whose second derivatives are silently wrong."""
    model = without_dropout(tiny())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in ("model.norm.weight", "model.layers.0.input_layernorm.weight"))
    batch = NextToken().prepare(ToyStream().batch(0)[0])
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def loss(flattened: Tensor) -> Tensor:
        weights = dict(zip(names, flattened.split(32), strict=True))
        logits = torch.func.functional_call(model, weights, (batch["input_ids"],)).logits
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    start = torch.cat([model.get_parameter(name).detach() for name in names])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        exact = torch.autograd.functional.hessian(loss, start).diagonal()
    optimizer = Listener(model, "hutchinson", every=1)

    class Same(ToyStream):
        def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
            return super().batch(0, rank, micro_batches=micro_batches)

    listen(model, optimizer, steps=300, stream=Same(), log_every=1000)
    found = torch.stack([torch.cat(each) for each in optimizer.heard])
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - exact).abs() / error).max() < 4.5
    assert torch.corrcoef(torch.stack([found.mean(0), exact]))[0, 1] > 0.5


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimates_do_not_depend_on_micro_batches(tiny: Make, estimator: str) -> None:
    """Catches draws per micro-batch, squares of parts, and a share that is taken of every part."""
    found = []
    for parts in (1, 4):
        model = without_dropout(tiny())
        optimizer = Listener(model, estimator, share=0.625)  # 5 of 8 sequences: the third part of 2 is cut
        training = listen(model, optimizer, steps=2, micro_batches=parts)
        assert training.ledger.of("curvature").tokens == 5 * 16
        found.append(optimizer.heard)
    assert [len(each) for each in found] == [1, 1]
    for one, other in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_passes_leave_training_as_it_is(tiny: Make, estimator: str) -> None:
    """Catches an estimate that reaches a gradient, dropout's generator or a step, and a cost that nobody charges."""
    model, plain = tiny(), tiny()
    optimizer = Listener(model, estimator, every=2, share=0.5, lr=0.1)
    training = listen(model, optimizer, steps=5)
    reference = listen(plain, torch.optim.SGD(plain.parameters(), lr=0.1), steps=5)
    assert len(optimizer.heard) == 2
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert [r["loss"] for r in training.records] == [r["loss"] for r in reference.records]
    spent, trained = training.ledger.of("curvature"), training.ledger.of("train")
    assert trained.flops == reference.ledger.of("train").flops and training.ledger.tokens == 5 * 8 * 16
    assert spent.tokens == 2 * 4 * 16 and spent.seconds > 0
    planned = optimizer.curvature.passes_per_step * 4 / 5  # two of the two and a half of five steps
    assert spent.flops / trained.flops == pytest.approx(planned, rel=1e-6)


def test_masked_tokens_are_drawn_too() -> None:
    """Catches draws of the whole window being read at the masked places only."""
    special = torch.zeros(VOCABULARY, dtype=torch.bool)
    objective = MaskedLm(MaskedLmConfig(), mask_id=3, special_V=special)
    model = bert(vocab_size=VOCABULARY)
    optimizer = Listener(model, "sampled-labels", every=1)
    listen(model, optimizer, objective, steps=1)
    assert len(optimizer.heard) == 1
    body, batch = anatomy.of(model), objective.prepare(ToyStream().batch(0)[0], torch.Generator().manual_seed(1))
    losses = [float(objective(body, {**batch, "draws": torch.rand(8, 16)}).total.detach()) for _ in range(2)]
    assert losses[0] != losses[1]


class Distance(NextToken):
    """An objective that cannot draw labels."""

    name = "distance"
    samples_labels = False

    def __call__(self, body: Any, batch: Batch) -> Loss:
        hidden = body.hidden(input_ids=batch["input_ids"])
        return Loss(hidden.square().sum(), batch["labels"].numel())


def test_an_objective_that_draws_no_labels_is_refused(tiny: Make) -> None:
    """Catches the empirical Fisher being passed off as curvature; the other estimator takes the loss."""
    model = tiny()
    with pytest.raises(ConfigError, match="estimator: hutchinson"):
        listen(model, Listener(model, "sampled-labels"), Distance())
    optimizer = Listener(model, "hutchinson", every=1)
    listen(model, optimizer, Distance(), steps=1)
    assert len(optimizer.heard) == 1


def test_an_estimate_that_is_not_finite_is_dropped(tiny: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches one bad pass poisoning the curvature for the rest of the run."""

    class Poisoned(NextToken):
        def __call__(self, body: Any, batch: Batch) -> Loss:
            loss = super().__call__(body, batch)
            if "draws" in batch:
                loss.total = loss.total * float("inf")
            return loss

    model = tiny()
    optimizer = Listener(model, "sampled-labels")
    listen(model, optimizer, Poisoned())
    assert optimizer.heard == [] and "curvature after step 2" in capsys.readouterr().err


@pytest.mark.parametrize("estimator", ["gauss-newton-bartlett", "hutchinson"])
def test_a_resumed_run_is_bit_identical(tiny: Make, tmp_path: Path, estimator: str) -> None:
    """Catches curvature that a checkpoint does not hold, and estimates that depend on what ran before."""

    def run(model: Any, folder: Path, stream: Any) -> None:
        config = SophiaConfig.parse({"estimator": estimator, "refresh_steps": 3, "learning_rate": 0.01})
        optimizer = config.build(anatomy.of(model), total_steps=9)
        settings = FitConfig(compile="never", precision="fp32", log_every=1)
        fit(model, NextToken(), stream, optimizer, flat, steps=9, config=settings, folder=folder)

    class Interrupting(ToyStream):
        def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step, rank, micro_batches=micro_batches)

    whole, first, second = tiny(), tiny(), tiny()
    run(whole, tmp_path / "whole", ToyStream())
    with pytest.raises(TrainingStopped):
        run(first, tmp_path / "cut", Interrupting())
    run(second, tmp_path / "cut", ToyStream())
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    records = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    unclipped = [[record["unclipped"] for record in each] for each in records]
    assert unclipped[0] == unclipped[1]
    assert unclipped[0][:3] == [0.0] * 3 and any(0 < share < 1 for share in unclipped[0][3:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's compiler, of itself
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_compiled_blocks_give_the_same_estimates(tiny: Make, estimator: str) -> None:
    """Catches compiled code that cannot be differentiated twice, or is run on the wrong labels."""
    found = []
    for choice in ("never", "always"):
        model = without_dropout(tiny())
        optimizer = Listener(model, estimator)
        listen(model, optimizer, compile=choice)
        found.append(optimizer.heard[0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)


def test_no_pass_without_a_request(tiny: Make) -> None:
    """Catches a cost for those who did not ask."""
    model = tiny()
    assert "curvature" not in listen(model, torch.optim.SGD(model.parameters(), lr=0.1)).ledger.purposes
    nothing: Any = None
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    assert curvature_pass(plain, nothing, model, anatomy.of(model), NextToken(), nothing, 0) is None


def without_dropout(model: LlamaForCausalLM) -> LlamaForCausalLM:
    model.config.attention_dropout = 0.0
    for block in model.model.layers:
        block.self_attn.attention_dropout = 0.0
    return model
