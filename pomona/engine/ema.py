"""An exponential mean of the weights, kept in float32 beside the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """mean <- decay * mean + (1 - decay) * weights, once a step.

    The decay is lowered at the start, to (1 + steps) / (10 + steps), so that the mean forgets the random weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = dict(model.named_parameters())
        self._mean = {name: value.detach().clone().float() for name, value in self._parameters.items()}
        self._decay, self._updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        current = [value.detach().float() for value in self._parameters.values()]
        torch._foreach_lerp_(list(self._mean.values()), current, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the mean within the block and its own weights again afterwards."""
        own = {name: value.detach().clone() for name, value in self._parameters.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self._parameters.items():
                    value.copy_(own[name])

    @torch.no_grad()
    def copy_to_model(self) -> None:
        for name, value in self._parameters.items():
            value.copy_(self._mean[name])

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {**{f"ema.{name}": value for name, value in self._mean.items()}, "updates": torch.tensor(self._updates)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The reverse of `tensors`."""
        for name, value in self._mean.items():
            value.copy_(tensors[f"ema.{name}"])
        self._updates = int(tensors["updates"])
