"""Which parameters an optimizer treats how: matrices, embeddings, head, vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pomona.anatomy import Anatomy, guests_of
from pomona.ground.errors import UnsupportedModel


@dataclass(frozen=True)
class Parts:
    """The trainable parameters of a model, each once.

    Args:
        matrices: the linear maps inside the blocks, stored as (outputs, inputs), and those of adapters; also the
            factors of maps that are products (modules that say `stands_for_maps`).
        transposed: those that are stored as (inputs, outputs).
        embeddings: token, position and type tables; a tied head is among them.
        head: what lies between hidden states and logits, unless it is tied.
        vectors: norms and biases, and anything with fewer than two axes.
    """

    matrices: list[nn.Parameter]
    transposed: list[nn.Parameter]
    embeddings: list[nn.Parameter]
    head: list[nn.Parameter]
    vectors: list[nn.Parameter]


def parts_of(body: Anatomy, method: str, *, needs_matrices: bool = True) -> Parts:
    """Sort the trainable parameters of a model, and of what is trained along with it (`body.companions`).

    Args:
        needs_matrices: whether the method does nothing without a matrix inside the blocks.

    Raises:
        UnsupportedModel: no such matrix is trainable, so that the method would do nothing.
    """
    bodies = [body, *(each for each in body.companions if isinstance(each, Anatomy))]
    owners = [each.model if isinstance(each, Anatomy) else each for each in (body, *body.companions)]
    turned = {id(weight.parameter) for each in bodies for weight in each.weights() if weight.transposed}
    matrices = {id(parameter) for each in bodies for _, parameter in each.matrices()}
    matrices |= {id(parameter) for owner in owners for parameter in guests_of(owner).values()}
    modules = [module for owner in owners for module in owner.modules()]
    stand_ins = [module for module in modules if getattr(module, "stands_for_maps", False)]
    matrices |= {id(parameter) for module in stand_ins for parameter in module.parameters()}
    tables = {id(p) for module in modules if isinstance(module, nn.Embedding) for p in module.parameters()}
    parts = Parts([], [], [], [], [])
    for parameter in {id(p): p for owner in owners for p in owner.parameters()}.values():
        if not parameter.requires_grad:
            continue
        key = id(parameter)
        if parameter.ndim < 2:
            parts.vectors.append(parameter)
        elif key in tables:
            parts.embeddings.append(parameter)
        elif key not in matrices or parameter.ndim != 2:
            parts.head.append(parameter)
        else:
            (parts.transposed if key in turned else parts.matrices).append(parameter)
    if needs_matrices and not parts.matrices and not parts.transposed:
        raise UnsupportedModel(
            f"{method} finds no matrix to train in {type(body.model).__name__}",
            needs="at least one trainable linear map inside the blocks",
            found="all of them are frozen" if body.matrices() else "none",
            do="set requires_grad on the blocks' weights",
        )
    return parts


def rest_groups(
    parts: Parts,
    *,
    learning_rate: float,
    embedding_learning_rate: float | None,
    head_learning_rate: float | None,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> list[dict[str, Any]]:
    """Parameter groups, without the empty ones, of what is not a matrix: decay on tables and head, not on vectors."""
    common = {"betas": betas, "eps": eps}
    groups = [
        ("embeddings", parts.embeddings, embedding_learning_rate or learning_rate, weight_decay),
        ("head", parts.head, head_learning_rate or learning_rate, weight_decay),
        ("vectors", parts.vectors, learning_rate, 0.0),
    ]
    return [
        {"name": name, "params": params, "lr": rate, "weight_decay": decay, **common}
        for name, params, rate, decay in groups
        if params
    ]


def by_shape(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The parameters in batches of one shape, dtype and device."""
    batches: dict[tuple[torch.Size, torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in parameters:
        batches.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(parameter)
    return list(batches.values())


def in_chunks(parameters: list[nn.Parameter], elements: int) -> list[list[nn.Parameter]]:
    """Parts of about `elements` entries, alike in size and, for two cores, even; or single parameters."""
    most = max(1, elements // parameters[0].numel())
    size = math.ceil(len(parameters) / math.ceil(len(parameters) / most))
    size += size % 2 if most > 1 else 0
    return [parameters[start : start + size] for start in range(0, len(parameters), size)]


def gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient of a parameter that has one."""
    assert parameter.grad is not None
    return parameter.grad
