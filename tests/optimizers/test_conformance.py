"""What every optimizer keeps to, whatever its rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.engine.checkpoint import Checkpoints
from pomona.ground.config import MethodConfig
from pomona.ground.errors import UnsupportedModel
from tests.conformance import methods_of, slug_of
from tests.tiny import FAMILIES, VOCABULARY, gpt2, llama

METHODS = methods_of("optimizer")
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)


def build(method: type[MethodConfig], body: Anatomy, total_steps: int = 60) -> Any:
    return method().build(body, total_steps=total_steps)  # type: ignore[attr-defined]


def gradients_(body: Anatomy, seed: int, without: str | None = None) -> None:
    """Random gradients for every parameter except `without`."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in body.model.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if name == without or not parameter.requires_grad else draw * 0.01


def weights(body: Anatomy) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in body.model.named_parameters()}


def moved(before: dict[str, Tensor], body: Anatomy) -> set[str]:
    return {name for name, value in weights(body).items() if not torch.equal(value, before[name])}


def assert_same_state(one: Any, other: Any) -> None:
    """Bit for bit, whatever the order of keys."""
    first, second = one.state_dict()["state"], other.state_dict()["state"]
    assert first.keys() == second.keys()
    for key, entry in first.items():
        assert entry.keys() == second[key].keys()
        for name, value in entry.items():
            equal = torch.equal(value, second[key][name]) if isinstance(value, Tensor) else value == second[key][name]
            assert equal, (key, name)


@every_method
@pytest.mark.parametrize("family", FAMILIES)
def test_groups(method: type[MethodConfig], family: str) -> None:
    """Catches a parameter in no group or in two, decay on norms and biases, and a group without a peak rate."""
    body = anatomy.of(FAMILIES[family]())
    optimizer = build(method, body)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in body.model.parameters())
    for group in optimizer.param_groups:
        assert group["lr"] > 0
        assert group["weight_decay"] == 0 or all(parameter.ndim > 1 for parameter in group["params"])


@every_method
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_moves_and_the_loss_falls(method: type[MethodConfig], family: str) -> None:
    """Catches a flipped sign and a parameter that is passed over, in every family."""
    body = anatomy.of(FAMILIES[family]())
    tokens = torch.randint(0, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(0))
    optimizer, before, losses = build(method, body), weights(body), []
    for _ in range(12):
        loss = body.model(input_ids=tokens, labels=tokens).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert moved(before, body) == {name for name, p in body.model.named_parameters() if p.grad is not None}
    assert losses[-1] < losses[0] - 0.2


@every_method
def test_rate_zero_moves_nothing(method: type[MethodConfig]) -> None:
    """Catches a step that does not scale with the group's rate, decay included."""
    body = anatomy.of(llama())
    optimizer, before = build(method, body), weights(body)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    gradients_(body, 0)
    optimizer.step()
    assert not moved(before, body)


@every_method
def test_step_is_proportional_to_the_rate(method: type[MethodConfig]) -> None:
    """Catches a rate that is read at building time: the loop scales `lr` before each step."""
    steps = []
    for factor in (1.0, 0.5):
        body = anatomy.of(llama())
        optimizer, before = build(method, body), weights(body)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        gradients_(body, 0)
        optimizer.step()
        steps.append({name: value - before[name] for name, value in weights(body).items()})
    for name, full in steps[0].items():
        torch.testing.assert_close(steps[1][name], full / 2, rtol=1e-3, atol=1e-6)


@every_method
def test_gradients_are_left_as_they_are(method: type[MethodConfig]) -> None:
    """Catches work in place on gradients that the loop still reports."""
    body = anatomy.of(llama())
    optimizer = build(method, body)
    gradients_(body, 0)
    before = [parameter.grad.clone() for parameter in body.model.parameters()]
    optimizer.step()
    assert all(torch.equal(p.grad, b) for p, b in zip(body.model.parameters(), before, strict=True))


@every_method
def test_parameter_without_gradient(method: type[MethodConfig]) -> None:
    """Catches decay or momentum of a parameter that got no gradient, and one parameter's absence stopping others."""
    body = anatomy.of(llama())
    optimizer, before = build(method, body), weights(body)
    name = body.blocks[0].attention.query.name
    gradients_(body, 0, without=name)
    optimizer.step()
    assert moved(before, body) == set(before) - {name}


@every_method
@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
def test_resume_is_exact(method: type[MethodConfig], make: Any, tmp_path: Path) -> None:
    """Catches a state that a checkpoint does not hold: after writing and reading, the trajectory is bit for bit the
    same, also when a parameter had no gradient at times, and without a pickle."""

    def run(body: Anatomy, optimizer: Any, steps: range) -> None:
        name = body.blocks[1].ffn.down.name
        for step in steps:
            gradients_(body, step, without=name if step % 3 == 0 else None)
            optimizer.step()

    whole = anatomy.of(make())
    optimizer = build(method, whole)
    run(whole, optimizer, range(13))
    Checkpoints(tmp_path).save(13, whole.model, optimizer, {})
    run(whole, optimizer, range(13, 25))

    again = anatomy.of(make())
    other = build(method, again)
    Checkpoints(tmp_path).load(tmp_path / "step-00000013", again.model, other)
    run(again, other, range(13, 25))
    assert not moved(weights(whole), again)
    assert_same_state(other, optimizer)


@every_method
def test_state_is_tensors_and_plain_numbers(method: type[MethodConfig]) -> None:
    """Catches objects in the state, which only a pickle could store, and tensors that share storage."""
    body = anatomy.of(llama())
    optimizer = build(method, body)
    gradients_(body, 0)
    optimizer.step()
    state = optimizer.state_dict()
    json.dumps(state["param_groups"])
    tensors = [value for entry in state["state"].values() for value in entry.values() if isinstance(value, Tensor)]
    others = [v for entry in state["state"].values() for v in entry.values() if not isinstance(v, Tensor)]
    assert all(isinstance(value, int | float) for value in others)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)


@every_method
def test_deterministic(method: type[MethodConfig]) -> None:
    """Catches randomness: two runs give the same weights."""
    ends = []
    for _ in range(2):
        body = anatomy.of(llama())
        optimizer = build(method, body)
        for step in range(3):
            gradients_(body, step)
            optimizer.step()
        ends.append(weights(body))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@every_method
def test_auxiliary_flops_are_handed_over_once(method: type[MethodConfig]) -> None:
    """Catches FLOPs that are counted twice: the ledger asks after each step."""
    body = anatomy.of(llama())
    optimizer = build(method, body)
    assert optimizer.auxiliary_flops() == 0
    gradients_(body, 0)
    optimizer.step()
    assert isinstance(optimizer.auxiliary_flops(), int)
    assert optimizer.auxiliary_flops() == 0


@every_method
def test_frozen_parameters(method: type[MethodConfig]) -> None:
    """Catches frozen weights in a group; a method of matrices refuses a model without a trainable one."""
    body = anatomy.of(llama())
    frozen = body.blocks[0].attention.query.parameter.requires_grad_(False)
    grouped = [p for group in build(method, body).param_groups for p in group["params"]]
    assert not any(parameter is frozen for parameter in grouped)
    for block in body.blocks:
        block.module.requires_grad_(False)
    if slug_of(method) == "adamw":  # the rest is all that a head or an adapter has
        assert build(method, body).param_groups
        return
    with pytest.raises(UnsupportedModel, match="all of them are frozen"):
        build(method, body)
