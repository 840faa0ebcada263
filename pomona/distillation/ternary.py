"""Ternary weights and 8-bit activations for training: values on a grid, gradients straight through.

Source: Zhang et al., "TernaryBERT: Distillation-aware Ultra-low Bit BERT", EMNLP 2020, arXiv:2009.12812, Sec. 3.1,
after Li et al., "Ternary Weight Networks", arXiv:1605.04711, Eq. 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pomona.anatomy import Anatomy, Weight


def ternary(weight: Tensor, *, rows: bool = False) -> Tensor:
    """a * sign(W) where |W| > 0.7 mean|W|, else 0; a is the mean of |W| there, the least-squares scale.

    Args:
        weight: any float tensor. rows: a threshold and a scale for each row, instead of one for all.
    Returns:
        Values in {-a, 0, a}; what is ternary already stays as it is.
    Example:
        >>> ternary(torch.tensor([1.0, -3.0, 0.1, 0.0]))
        tensor([ 2., -2.,  0.,  0.])
    """
    size = weight.abs()
    dims = tuple(range(1, size.dim())) if rows else tuple(range(size.dim()))
    mask = size > 0.7 * size.mean(dims, keepdim=True)
    scale = (size * mask).sum(dims, keepdim=True) / mask.sum(dims, keepdim=True).clamp_min(1)
    values: Tensor = scale * weight.sign() * mask
    return values


def rounded(x: Tensor, *, bits: int, clip: float | None) -> Tensor:
    """Symmetric rounding to `bits` bits over the whole tensor: clamp to +-clip, s = (2^(bits-1) - 1) / max|x|."""
    x = x if clip is None else x.clamp(-clip, clip)
    largest = x.abs().amax()
    scale = (2 ** (bits - 1) - 1) / torch.where(largest > 0, largest, 1.0)
    values: Tensor = (x * scale).round() / scale
    return values


def straight_through(x: Tensor, values: Tensor, clip: float | None) -> Tensor:
    """`values` going forward; going back the gradient of x, zero where |x| is at `clip` or beyond."""
    inside = x if clip is None else torch.where(x.abs() < clip, x, x.detach())
    return inside + (values - x).detach()


def fake_rounded(x: Tensor, *, bits: int | None, clip: float | None) -> Tensor:
    """`rounded`, with gradients straight through; x itself without bits."""
    if bits is None:
        return x
    with torch.no_grad():
        values = rounded(x, bits=bits, clip=clip)
    return straight_through(x, values, clip)


def made_ternary(body: Anatomy) -> list[tuple[Weight, bool]]:
    """The maps within the blocks, and the token table unless the head shares it; each with whether by rows."""
    maps = [(weight, False) for weight in body.weights()]
    table, head = body.embedding, body.head
    if table is not None and (head is None or head.parameter is not table.parameter):
        maps.append((table, True))
    return maps


@torch.no_grad()
def ternary_parameters(body: Anatomy) -> dict[str, Tensor]:
    """What each parameter that holds such maps becomes, by its name in the state dict, in its stored layout."""
    made: dict[str, Tensor] = {}
    for weight, rows in made_ternary(body):
        stored = made.setdefault(weight.name, weight.parameter.detach().clone())
        weight.put_(stored, ternary(weight.read(), rows=rows))
    return made


class _Host(nn.Module):
    """Runs a function while the parameters of a model are other tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[], Any]) -> Any:
        return run()


def run_ternary(body: Anatomy, run: Callable[[], Any], clip: float | None) -> Any:
    """`run()` with the maps of a model ternary; gradients reach its parameters straight through."""
    parameters = dict(body.model.named_parameters())
    values: Mapping[str, Tensor] = {
        f"model.{name}": straight_through(parameters[name], value, clip)
        for name, value in ternary_parameters(body).items()
    }
    return functional_call(_Host(body.model), dict(values), (run,))
