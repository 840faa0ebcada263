"""Single weights: which of a model's count, and how they are scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from pomona.anatomy import Anatomy, Weight
from pomona.ground.errors import ConfigError, PomonaError, did_you_mean

WeightScore = Literal["magnitude", "random"]


def prunable(body: Anatomy, roles: Sequence[str] = ()) -> list[Weight]:
    """The weights that are pruned: linear maps inside the blocks without routers, those of experts singly.

    Args:
        roles: other ones: parts ("ffn"), single roles ("attention.query"), also "embedding" and "head".
    Returns:
        In the order of the computation; tied ones once.
    Raises:
        ConfigError: no weight has one of the roles.
    """
    control = {weight.key for block in body.blocks for weight in (block.ffn.router, block.ffn.shared_gate) if weight}
    inside = [weight for weight in body.weights() if weight.key not in control]
    outside = [weight for weight in (body.embedding, body.head) if weight is not None]
    found = inside
    if roles:
        every = [*inside, *outside]
        for role in roles:
            if not any(_is_part(weight.role, role) for weight in every):
                known = {weight.role for weight in every} | {weight.role.split(".")[0] for weight in every}
                raise ConfigError(f"no weight has the role {role!r}", where="roles", do=did_you_mean(role, known))
        found = [weight for weight in every if any(_is_part(weight.role, role) for role in roles)]
    return list({weight.key: weight for weight in found}.values())


def require_finite(weights: Sequence[Weight]) -> None:
    """Raise unless all values are finite: they could not be compared."""
    for weight in weights:
        if not bool(weight.read().isfinite().all()):
            raise PomonaError(
                f"{weight.name} is not finite",
                where=weight.name,
                do="train again from the last good checkpoint, or load another model",
            )


def scores_of(weights: Sequence[Weight], score: WeightScore, seed: int) -> Iterator[Tensor]:
    """One non-negative tensor for each weight in canonical shape: its absolute values, or uniform random numbers."""
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        if score == "magnitude":
            yield weight.read().abs()
        else:
            yield torch.rand(weight.shape, generator=generator).to(weight.parameter.device)


def _is_part(role: str, asked: str) -> bool:
    return role == asked or role.startswith(f"{asked}.")
