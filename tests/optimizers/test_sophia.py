"""Sophia: by hand, at its limits, and that a new curvature changes nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pomona import anatomy
from pomona.engine.protocols import CurvatureRequest, UsesCurvature
from pomona.optimizers import Sophia, SophiaConfig
from pomona.optimizers.sophia import sophia_direction
from tests.tiny import gpt2, llama

ASKED = CurvatureRequest("sampled-labels", 10, 0.5)


def sophia(*parameters: nn.Parameter, **changes: Any) -> Sophia:
    group = {"lr": 0.1, "betas": (0.5, 0.5), "eps": 1e-12, "gamma": 1.0, "weight_decay": 0.0, **changes}
    return Sophia([{"params": list(parameters), **group}], ASKED)


def give(parameter: nn.Parameter, values: list[float]) -> None:
    parameter.grad = torch.tensor(values)


def test_two_steps_by_hand() -> None:
    """Catches a wrong order of decay, moment and step, and an estimate that is not averaged."""
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = sophia(weight, weight_decay=0.5)
    give(weight, [2.0, -0.5])
    optimizer.step()  # m = (1, -0.25), h = 0: signs
    torch.testing.assert_close(weight.data, torch.tensor([0.95 - 0.1, 0.95 + 0.1]))
    give(weight, [8.0, 1.0])
    optimizer.update_curvature()  # h = (4, 0.5)
    give(weight, [1.0, 0.0])
    optimizer.step()  # m = (1, -0.125); m / h = (0.25, -0.25)
    torch.testing.assert_close(weight.data, torch.tensor([0.85 * 0.95 - 0.025, 1.05 * 0.95 + 0.025]))
    assert optimizer.statistics() == {"unclipped": 1.0}


def test_no_step_is_longer_than_the_rate() -> None:
    """Catches a clip before the division, and negative or vanishing curvature that reverses or explodes a step."""
    draw = torch.Generator().manual_seed(0)
    moment = torch.randn(20_000, generator=draw) * 10.0 ** torch.randint(-20, 20, (20_000,), generator=draw)
    curvature = torch.randn(20_000, generator=draw) * 10.0 ** torch.randint(-20, 20, (20_000,), generator=draw)
    direction = sophia_direction(moment, curvature, gamma=0.05, eps=1e-12)
    assert direction.abs().max() <= 1.0
    assert torch.equal(direction.sign(), moment.sign() * (direction != 0))
    flat = (curvature <= 0) & (moment.abs() > 1e-12)
    assert torch.equal(direction[flat], moment[flat].sign())


def test_without_curvature_it_is_the_sign_of_momentum() -> None:
    """Catches a bias correction, or a denominator that is not bounded below."""
    weight, expected = nn.Parameter(torch.randn(50)), torch.zeros(50)
    reference, optimizer = weight.detach().clone(), sophia(weight, betas=(0.9, 0.99), weight_decay=0.2)
    for _ in range(5):
        weight.grad = torch.randn(50)
        expected = 0.9 * expected + 0.1 * weight.grad
        reference = reference * (1 - 0.1 * 0.2) - 0.1 * expected.sign()
        optimizer.step()
    torch.testing.assert_close(weight.data, reference)


def test_a_newton_step_ends_at_the_minimum() -> None:
    """Catches a root of the curvature (Adam's), and a factor."""
    scale, minimum = torch.tensor([0.5, 30.0, 2.0]), torch.tensor([0.3, -0.2, 0.7])
    weight = nn.Parameter(torch.zeros(3))
    optimizer = sophia(weight, lr=1.0, betas=(0.0, 0.0))
    weight.grad = scale.clone()
    optimizer.update_curvature()
    weight.grad = scale * (weight.detach() - minimum)
    optimizer.step()
    torch.testing.assert_close(weight.data, minimum)


@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
def test_new_curvature_changes_nothing_else(make: Callable[[], Any]) -> None:
    """Catches an estimate that reaches the moments or the weights."""
    body = anatomy.of(make())
    optimizer = SophiaConfig().build(body, total_steps=10)
    assert isinstance(optimizer, UsesCurvature)
    parameters = list(body.model.parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()

    def snapshot(name: str) -> list[Tensor]:
        return [optimizer.state[parameter][name].clone() for parameter in parameters]

    weights, moments = [parameter.detach().clone() for parameter in parameters], snapshot("exp_avg")
    optimizer.update_curvature()
    assert all(torch.equal(now, before) for now, before in zip(parameters, weights, strict=True))
    assert all(torch.equal(now, before) for now, before in zip(snapshot("exp_avg"), moments, strict=True))
    for parameter, curvature in zip(parameters, snapshot("curvature"), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(curvature, 0.01 * parameter.grad)


def test_defaults_are_the_paper_s() -> None:
    """Catches the constants of one estimator being used for the other."""
    bartlett, hutchinson = SophiaConfig(), SophiaConfig.parse({"estimator": "hutchinson"})
    assert bartlett.curvature == CurvatureRequest("sampled-labels", 10, 0.5)
    assert hutchinson.curvature == CurvatureRequest("hutchinson", 10, 1 / 15)
    for config, beta1, gamma in ((bartlett, 0.965, 0.05), (hutchinson, 0.96, 0.01)):
        group = config.build(anatomy.of(llama()), total_steps=10).param_groups[0]
        assert group["betas"] == (beta1, 0.99) and group["gamma"] == gamma


def valley(x: Tensor, y: Tensor) -> Tensor:
    """The paper's picture (Fig. 2): sharp and not convex in x, flat in y; its minimum is 0 at (1, 4)."""
    return 8 * (x - 1) ** 2 * (1.3 * x**2 + 2 * x + 1) + 0.5 * (y - 4) ** 2


def steps_down_the_valley(step: Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]) -> float:
    """Steps to a loss of 1e-3 from (0.2, 0); `step` gets gradient, diagonal of the Hessian, and room for moments."""
    place, kept = torch.tensor([0.2, 0.0], dtype=torch.float64), dict[str, Tensor]()
    for count in range(1, 401):
        place.requires_grad_(True)
        (slope,) = torch.autograd.grad(valley(*place), place, create_graph=True)
        bend = torch.stack([torch.autograd.grad(slope[i], place, retain_graph=True)[0][i] for i in range(2)])
        place = place.detach() - step(slope.detach(), bend, kept)
        if valley(*place) <= 1e-3:
            return count
    return math.inf


def test_it_takes_half_the_steps_of_others_where_curvature_differs() -> None:
    """Catches a method that works but gains nothing: the paper's two-dimensional example, every rival at the best of
    five rates."""

    def adam(rate: float) -> Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]:
        def step(slope: Tensor, bend: Tensor, kept: dict[str, Tensor]) -> Tensor:
            count = kept["count"] = kept.get("count", torch.zeros(())) + 1
            first = kept["first"] = 0.9 * kept.get("first", torch.zeros(2)) + 0.1 * slope
            second = kept["second"] = 0.99 * kept.get("second", torch.zeros(2)) + 0.01 * slope**2
            return rate * first / (1 - 0.9**count) / ((second / (1 - 0.99**count)).sqrt() + 1e-8)

        return step

    rivals: dict[str, Callable[[float], Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]]] = {
        "descent": lambda rate: lambda slope, bend, kept: rate * slope,
        "sign": lambda rate: lambda slope, bend, kept: rate * slope.sign(),
        "adam": adam,
    }
    grids = {"descent": (0.003, 0.006, 0.012, 0.025, 0.05), "sign": (0.02, 0.04, 0.1, 0.2, 0.4)}
    best = {
        name: min(steps_down_the_valley(make(rate)) for rate in grids.get(name, (0.05, 0.1, 0.2, 0.5, 1.0)))
        for name, make in rivals.items()
    }
    ours = min(
        steps_down_the_valley(
            lambda slope, bend, kept, rate=rate: rate * sophia_direction(slope, bend, gamma=rate, eps=1e-12)
        )
        for rate in (0.1, 0.2, 0.5, 1.0, 2.0)
    )
    assert all(2 * ours <= steps for steps in best.values()), (ours, best)
