"""Stages: the verbs of a model's life, the recipes made of them, and how they run.

One pydantic definition per stage gives its YAML, its command and its Python call. Importing this needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pomona.stages.verbs import VERBS, stage_class

if TYPE_CHECKING:
    from pomona.stages.base import Artefact, Forecast, Job, Made, Need, Stage, View
    from pomona.stages.recipe import Recipe, load, shipped
    from pomona.stages.runner import Run, call, run

_HOMES = {
    "Artefact": "base",
    "Forecast": "base",
    "Job": "base",
    "Made": "base",
    "Need": "base",
    "Recipe": "recipe",
    "Run": "runner",
    "Stage": "base",
    "View": "base",
    "call": "runner",
    "load": "recipe",
    "run": "runner",
    "shipped": "recipe",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "VERBS",
    "Artefact",
    "Forecast",
    "Job",
    "Made",
    "Need",
    "Recipe",
    "Run",
    "Stage",
    "View",
    "call",
    "load",
    "run",
    "shipped",
    "stage_class",
]
