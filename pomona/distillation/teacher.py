"""Teacher: a frozen model that is asked about every batch, and is neither trained, saved nor exported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.engine.speed import fast_products


class Teacher:
    """A model in evaluation mode whose parameters take no gradient.

    It is held beside the student, not within it: what trains, checkpoints and exports the student does not see it. A
    run knows its teacher by `hash`.

    Args:
        model: a transformers model, or its anatomy; it is frozen at once.
    """

    def __init__(self, model: Any) -> None:
        self.body = model if isinstance(model, Anatomy) else anatomy.of(model)
        self.body.model.eval().requires_grad_(False)

    @cached_property
    def hash(self) -> str:
        """Of its weights and buffers: 16 hexadecimal digits."""
        return weights_hash(self.body.model)

    @contextmanager
    def speaking(self, device: torch.device) -> Iterator[Anatomy]:
        """Within the block, its anatomy on a device, without gradients, computing as fast as the student."""
        self.body.model.to(device)
        with torch.no_grad(), fast_products(self.body, device):
            yield self.body


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of names, shapes and values of everything that a model saves, its first 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
