"""Stages: the verbs of a model's life, the recipes made of them, and how they run.

One pydantic definition per stage gives its YAML, its command and its Python call. Importing this needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pomona.ground.lazy import names_from
from pomona.stages.verbs import VERBS, stage_class

if TYPE_CHECKING:
    from pomona.stages.base import Artefact, Forecast, Job, Made, Need, Stage, View
    from pomona.stages.recipe import Recipe, load, shipped
    from pomona.stages.runner import Run, call, run

__getattr__ = names_from(
    __name__,
    {
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
    },
)

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
