"""The words of the catalog: kinds of methods, the stages that take them, and kinds of data."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal[
    "objective",
    "optimizer",
    "schedule",
    "growth",
    "sparsity",
    "quantization",
    "conversion",
    "distillation",
    "adapter",
    "continual",
    "merging",
    "selection",
    "accelerator",
    "probe",
    "attack",
    "benchmark",
    "model",
    "recipe",
    "tool",
]
"""What a method is for. A system that is several things has the kind of its main idea."""
KINDS: tuple[Kind, ...] = get_args(Kind)

STAGES: dict[Kind, tuple[str, ...]] = {
    "objective": ("pretrain", "continue"),
    "optimizer": ("pretrain", "continue"),
    "schedule": ("pretrain", "continue"),
    "growth": ("grow",),
    "sparsity": ("prune", "pretrain"),
    "quantization": ("quantize",),
    "conversion": ("convert",),
    "distillation": ("distil",),
    "adapter": ("adapt",),
    "continual": ("learn",),
    "merging": ("merge",),
    "selection": ("select",),
    "accelerator": ("examine",),
    "probe": ("probe",),
    "attack": ("attack",),
    "benchmark": ("examine",),
    "model": ("pretrain",),
    "recipe": (),
    "tool": (),
}
"""The verbs of a recipe that take a method of the kind. A recipe is a list of stages itself, a tool stands alone."""

Modality = Literal[
    "any",
    "text",
    "code",
    "image",
    "video",
    "audio",
    "speech",
    "music",
    "series",
    "points",
    "proteins",
    "graphs",
    "trajectories",
    "tables",
]
"""What kinds of data a method is about: `series` is measurements in time, `graphs` includes molecules and skeletons,
`trajectories` is states and actions, `any` is whatever a transformer reads."""
MODALITIES: tuple[Modality, ...] = get_args(Modality)
