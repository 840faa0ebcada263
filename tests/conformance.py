"""The methods that a conformance suite runs over: those of the catalog. A new method is tested by being listed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pomona.anatomy import towers
from pomona.catalog import Kind, config_class, select
from pomona.ground.config import MethodConfig


def methods_of(kind: Kind) -> list[type[MethodConfig]]:
    """The configurations of all methods of a kind that are built."""
    return [config_class(row.kind, row.slug) for row in select(kind, status="built")]


def slug_of(config: type[MethodConfig]) -> str:
    """The name of a method, which labels its tests."""
    return str(config.model_fields["method"].default)


def assert_same_model(loaded: Any, model: Any, outputs: Tensor, expected: Tensor) -> None:
    """`loaded` has the weights of `model` and computes the same: to the last bit, but for experts, which transformers
    computes with grouped products in a loaded model, and one by one in a model made from its configuration."""
    theirs, ours = loaded.state_dict(), model.state_dict()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    if any("experts" in body.capabilities for body in towers(model).values()):
        torch.testing.assert_close(outputs, expected)
    else:
        assert torch.equal(outputs, expected)
