"""Selection: which units stay, given their scores."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pomona.anatomy import Space
from pomona.ground.errors import ConfigError
from pomona.sparsity.unit_scores import Scores

Scope = Literal["block", "global"]


def keep_highest(scores: Scores, fraction: float, scope: Scope, multiple_of: int = 1) -> dict[Space, list[int]]:
    """The units of each space that stay, in ascending order; of equal scores the lower index stays.

    Args:
        scores: of units.
        fraction: of the units that go, in [0, 1).
        scope: "block": of every space as many. "global": the lowest of all, where the scores of a space are divided by
            their norm (arXiv:1905.10650, Sec. 4.1), so that spaces can be compared; at least one unit of each stays.
        multiple_of: how many stay is rounded up to a multiple, where the space has as many.
    Raises:
        ConfigError: "global" over units of which each parent must keep as many.
    """
    if scope == "block":
        return {space: _highest(space, own, _stay(_run(space), fraction, multiple_of)) for space, own in scores.items()}
    grouped = next((space for space in scores if space.parent is not None), None)
    if grouped is not None:
        raise ConfigError(
            f"{grouped} cannot be compared with the other blocks",
            where="scope",
            needs=f"as many for each of {grouped.parent}",
            do="choose scope: block",
        )
    normed = {space: own / own.norm().clamp(min=torch.finfo(own.dtype).tiny) for space, own in scores.items()}
    every = torch.cat(list(normed.values()))
    gone = torch.zeros(len(every), dtype=torch.bool)
    gone[every.argsort(stable=True)[: round(fraction * len(every))]] = True
    kept = {}
    for space, own in zip(normed, torch.split(gone, [space.size for space in normed]), strict=True):
        stay = _up_to_multiple(max(1, space.size - int(own.sum())), space.size, multiple_of)
        kept[space] = _highest(space, normed[space], stay)
    return kept


def _run(space: Space) -> int:
    """How many units of a space each coordinate of its parent owns."""
    return space.size if space.parent is None else space.size // space.parent.size


def _stay(size: int, fraction: float, multiple_of: int) -> int:
    return _up_to_multiple(max(1, size - round(fraction * size)), size, multiple_of)


def _up_to_multiple(stay: int, size: int, multiple_of: int) -> int:
    return min(size, -(-stay // multiple_of) * multiple_of)


def _highest(space: Space, scores: Tensor, stay: int) -> list[int]:
    """The `stay` highest of each run of a parent."""
    run = _run(space)
    chosen = scores.view(-1, run).argsort(dim=1, descending=True, stable=True)[:, :stay].sort(dim=1).values
    return (chosen + torch.arange(len(chosen))[:, None] * run).flatten().tolist()
