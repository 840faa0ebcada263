"""Parents for the tests: tiny models of every shape, experts that differ from them a little, and tensors to draw."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from pomona import anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes import lab
from pomona.anatomy.tiny import TINY, tiny_model

FAMILIES = list(TINY)

numbers = st.one_of(st.just(0.0), st.floats(2**-10, 2**10, width=32), st.floats(-(2**10), -(2**-10), width=32))
"""Finite float32 within the range in which changes are exact."""


def tensors(count: int, size: int | None = None) -> Any:
    """`count` vectors of the same length."""
    sizes = st.integers(1, 12) if size is None else st.just(size)
    rows = sizes.flatmap(lambda length: st.lists(numbers, min_size=count * length, max_size=count * length))
    return rows.map(lambda values: list(torch.tensor(values).view(count, -1)))


@cache
def _base(name: str) -> Any:
    return tiny_model(name)


def base_of(name: str) -> Any:
    """A tiny model with telling gains and biases, too."""
    model = copy.deepcopy(_base(name))
    change_(model, seed=99, size=0.1)
    return model


def expert_of(base: Any, seed: int, size: float = 0.02) -> Any:
    """A copy of a model whose weights were moved at random; its first matrix stayed as it was."""
    expert = copy.deepcopy(base)
    change_(expert, seed, size, spare=frozen(base))
    return expert


def frozen(model: Any) -> str:
    """Name of the parameter that experts leave as it is."""
    return next(name for name, value in model.named_parameters() if value.dim() == 2)


@torch.no_grad()
def change_(model: Any, seed: int, size: float, spare: str = "") -> None:
    """Add noise to every parameter but one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name != spare:
            parameter += (noise * size).to(parameter.dtype)


def state_of(model: Any) -> dict[str, Tensor]:
    """A copy of a state dict."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts hold the same bits."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def view_of(model: Any) -> anatomy.Anatomy:
    """The anatomy of a model; of several towers, the first."""
    return next(iter(anatomy.towers(model).values()))


def outputs_of(model: Any) -> Tensor:
    """What a model computes from some inputs: logits, or hidden states without a head."""
    body = view_of(model)
    return lab.outputs_of(body, example_inputs(body))
