"""What every method of every kind keeps to: a card, described parameters, and a row by which its suite finds it."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest

from pomona.catalog import config_class, select
from pomona.ground.config import MethodConfig
from tests.conformance import slug_of

SECTIONS = ("Source:", "Implements:", "Deviations:", "Use when:", "Relations:", "Limits:")
"""What every card says."""
METHODS = [config_class(row.kind, row.slug) for row in select(status="built")]
ROOMS = sorted({method.__module__.rpartition(".")[0] for method in METHODS})


@pytest.mark.parametrize("method", METHODS, ids=slug_of)
def test_card(method: type[MethodConfig]) -> None:
    """Catches a method without source, formula or limits, and parameters that nobody explains."""
    card = importlib.import_module(method.__module__).__doc__ or ""
    assert not [section for section in SECTIONS if section not in card]
    assert not [name for name, field in method.model_fields.items() if name != "method" and not field.description]


@pytest.mark.parametrize("room", ROOMS)
def test_all_are_listed(room: str) -> None:
    """Catches a method that is in no row of the catalog, and so in no suite."""
    found: set[Any] = set()
    for module in pkgutil.iter_modules(importlib.import_module(room).__path__):
        members = vars(importlib.import_module(f"{room}.{module.name}")).values()
        found |= {
            member
            for member in members
            if isinstance(member, type) and issubclass(member, MethodConfig) and "method" in member.__annotations__
        }
    assert found - {MethodConfig} <= set(METHODS)


def test_every_kind_has_methods() -> None:
    """Catches a filter of the catalog that lets nothing through, and with it suites that test nothing."""
    assert len(METHODS) >= 40 and {"pomona.objectives", "pomona.adapters", "pomona.examination"} <= set(ROOMS)
