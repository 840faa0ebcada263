"""The methods that a conformance suite runs over: those of the catalog. A new method is tested by being listed."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import torch
from torch import Tensor

from pomona.anatomy import towers
from pomona.catalog import Kind, config_class, select
from pomona.ground.config import MethodConfig

SECTIONS = ("Source:", "Implements:", "Deviations:", "Use when:", "Relations:", "Limits:")
"""What every card says."""


def methods_of(kind: Kind) -> list[type[MethodConfig]]:
    """The configurations of all methods of a kind that are built."""
    return [config_class(row.kind, row.slug) for row in select(kind, status="built")]


def slug_of(config: type[MethodConfig]) -> str:
    """The name of a method, which labels its tests."""
    return str(config.model_fields["method"].default)


def check_card(config: type[MethodConfig]) -> None:
    """The method's module has a full card, and every field says what it is."""
    card = importlib.import_module(config.__module__).__doc__ or ""
    missing = [section for section in SECTIONS if section not in card]
    assert not missing, f"{config.__module__} lacks {missing}"
    undescribed = [name for name, field in config.model_fields.items() if name != "method" and not field.description]
    assert not undescribed


def check_listed(kind: Kind, package: str) -> None:
    """Every configuration in the room is in the catalog: an unlisted method would escape its suite."""
    found: set[Any] = set()
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        members = vars(importlib.import_module(f"{package}.{module.name}")).values()
        found |= {
            member
            for member in members
            if isinstance(member, type) and issubclass(member, MethodConfig) and "method" in member.__annotations__
        }
    assert found - {MethodConfig} <= set(methods_of(kind))


def assert_same_model(loaded: Any, model: Any, outputs: Tensor, expected: Tensor) -> None:
    """`loaded` has the weights of `model` and computes the same: to the last bit, but for experts, which transformers
    computes with grouped products in a loaded model, and one by one in a model made from its configuration."""
    theirs, ours = loaded.state_dict(), model.state_dict()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    if any("experts" in body.capabilities for body in towers(model).values()):
        torch.testing.assert_close(outputs, expected)
    else:
        assert torch.equal(outputs, expected)
