"""Stages: the verbs of a model's life, the recipes made of them, and how they run.

One pydantic definition per stage gives its YAML, its command and its Python call. Importing this needs no torch.
"""

from pomona.stages.base import Artefact, Forecast, Job, Made, Need, Stage, View
from pomona.stages.recipe import Recipe, load, shipped
from pomona.stages.runner import Run, call, run
from pomona.stages.verbs import VERBS, stage_class

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
