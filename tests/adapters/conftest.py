from __future__ import annotations

from typing import Any

import pytest
import torch

from pomona import anatomy
from pomona.data.tokenizer import untrained_tokenizer
from pomona.tasks.classifier import from_base

IDS = torch.arange(24).reshape(2, 12) + 3


def classifier(make: Any, **changes: Any) -> Any:
    """A tiny classifier of three labels, the same at every call."""
    return from_base(make(**changes), ("a", "b", "c"), untrained_tokenizer()).train()


def disturbed_(model: Any, seed: int = 0) -> None:
    """Give what trains other values, as learning would."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draws))


def logits(model: Any) -> torch.Tensor:
    """What a classifier says, without gradients."""
    with torch.no_grad():
        return model(input_ids=IDS).logits  # type: ignore[no-any-return]


@pytest.fixture
def body_of() -> Any:
    return anatomy.of
