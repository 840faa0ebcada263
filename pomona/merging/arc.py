"""The arc between two tensors, seen as vectors from the origin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pomona.merging.deltas import dot, wide

NEARLY_PARALLEL = 0.9995
"""|cosine| above which the arc is a line."""


def slerp(base: Tensor, expert: Tensor, t: float) -> Tensor:
    """The point at `t` in [0, 1] of the arc from `base` to `expert`, seen as vectors, in the wider dtype.

    Norms change along it as they do linearly at the ends: tensors of one norm keep it.

    Example:
        >>> [round(x, 4) for x in slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5).tolist()]
        [0.7071, 0.7071]
    """
    a, b = wide(base), wide(expert)
    product = math.sqrt(dot(a, a)) * math.sqrt(dot(b, b))
    cosine = dot(a, b) / product if product else 1.0
    if abs(cosine) > NEARLY_PARALLEL:
        return torch.lerp(a, b, t)
    angle = math.acos(cosine)
    return a * (math.sin((1 - t) * angle) / math.sin(angle)) + b * (math.sin(t * angle) / math.sin(angle))
