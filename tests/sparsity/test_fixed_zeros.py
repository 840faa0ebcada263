"""Fixed zeros: they stay through training, and nothing else is held."""

from __future__ import annotations

import torch

from pomona.optimizers import AdamwConfig
from pomona.sparsity import fixed_zeros, magnitude_
from tests.sparsity.models import Squares, batches_of, state_of, telling


def test_zeros_stay_and_the_rest_learns() -> None:
    """Catches masks that momentum or weight decay get round, that hold other weights, and hooks that stay."""
    body = telling("gpt2")
    magnitude_(body)
    optimizer = torch.optim.SGD(body.model.parameters(), lr=1e-4, momentum=0.9, weight_decay=0.1)
    (batch,) = batches_of(body, count=1)

    def step() -> None:
        optimizer.zero_grad()
        Squares()(body, batch).total.backward()
        optimizer.step()

    before = state_of(body)
    zero = {name: value == 0 for name, value in before.items()}
    step()  # moves zeros, and gives them momentum
    with torch.no_grad():
        for name, value in body.model.state_dict().items():
            value[zero[name]] = 0.0
    with fixed_zeros(body, optimizer):
        step()
        step()
    names = {name for name, _ in body.matrices()}
    for name, value in state_of(body).items():
        if name in names:
            assert torch.equal(value == 0, zero[name])
            assert not torch.equal(value, before[name])
    step()
    assert any(bool((value[zero[name]] != 0).any()) for name, value in state_of(body).items() if name in names)


def test_the_optimizer_sees_no_gradient_there() -> None:
    """Catches zeros whose gradients enter norms, momenta and whole-matrix updates of the weights that are left."""
    body = telling("gpt2")
    magnitude_(body)
    optimizer = torch.optim.SGD(body.model.parameters(), lr=1e-4, momentum=0.9)
    Squares()(body, batches_of(body)[0]).total.backward()
    with fixed_zeros(body, optimizer):
        optimizer.step()
    for _, parameter in body.matrices():
        assert not bool(optimizer.state[parameter]["momentum_buffer"][parameter == 0].any())


def test_own_optimizers_are_held_too() -> None:
    """Catches an optimizer whose steps do not run hooks."""
    body = telling("llama-grouped-untied")
    magnitude_(body)
    names = [name for name, _ in body.matrices()]
    zero = {name: state_of(body)[name] == 0 for name in names}
    optimizer = AdamwConfig(learning_rate=0.01).build(body, total_steps=2)
    Squares()(body, batches_of(body)[0]).total.backward()
    with fixed_zeros(body, optimizer):
        optimizer.step()
    assert all(torch.equal(state_of(body)[name] == 0, zero[name]) for name in names)
