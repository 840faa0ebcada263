"""Which stage takes a kind of method is what the stages themselves say."""

from __future__ import annotations

from typing import get_args

import pytest

from pomona.catalog import KINDS, STAGES, MethodOf
from pomona.stages import VERBS, stage_class


def kinds_taken(verb: str) -> dict[str, str]:
    """The kind of method in each field of a stage that holds one."""
    found: dict[str, str] = {}
    for name, field in stage_class(verb).model_fields.items():
        inner = [item for option in get_args(field.annotation) for item in getattr(option, "__metadata__", ())]
        found.update((name, item.kind) for item in (*field.metadata, *inner) if isinstance(item, MethodOf))
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_stages_take_what_the_catalog_says(verb: str) -> None:
    """Catches a table that sends a reader to a stage that does not take the method."""
    taken = kinds_taken(verb)
    flat = stage_class(verb).flat
    if flat is not None:
        assert verb in STAGES[taken[flat]]  # type: ignore[index]
    if verb in ("pretrain", "continue"):
        assert {kind for kind in KINDS if verb in STAGES[kind]} - {"model"} == set(taken.values())


def test_every_kind_has_an_entry() -> None:
    """Catches a new kind that the filter by stage would stumble over."""
    assert tuple(STAGES) == KINDS
