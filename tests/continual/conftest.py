from __future__ import annotations

import copy
from typing import Any

import torch

from pomona.continual import Session
from pomona.tasks.stream import Encoded

LABELS = ("apple", "fig", "pear", "plum", "quince")
LENGTH = 24


def texts(seed: int, count: int = 9, favourite: int | None = None) -> Encoded:
    """Random rows of several lengths, in which one token is frequent."""
    draws = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(3, LENGTH, (1,), generator=draws))
        row = torch.randint(3, 60, (length,), generator=draws)
        if favourite is not None:
            row[torch.rand(length, generator=draws) < 0.7] = favourite
        rows.append(row.tolist())
    return Encoded(rows, [0] * count, 0, LENGTH)


def orchard(count: int = 9, shift: int = 0) -> dict[str, Encoded]:
    """Texts of every label."""
    return {label: texts(place + shift, count, 10 + 7 * place) for place, label in enumerate(LABELS)}


def sessions(order: tuple[tuple[str, ...], ...]) -> list[Session]:
    """The same texts in sessions of these labels."""
    found = orchard()
    return [Session({label: found[label] for label in labels}) for labels in order]


def copied(model: Any) -> Any:
    """An adaptation that learns nothing."""
    return lambda session: copy.deepcopy(model)


def moved(model: Any) -> Any:
    """An adaptation that gives the copy other weights, the same at every call."""

    def adapt(session: Session) -> Any:
        other = copy.deepcopy(model)
        draws = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))
        return other

    return adapt
