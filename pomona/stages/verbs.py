"""Which stages there are, in the order of a model's life, and where each is defined."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pomona.ground.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from pomona.stages.base import Stage

VERBS: dict[str, str] = {
    "corpus": "pomona.stages.corpus:CorpusStage",
    "tokenize": "pomona.stages.tokenize:TokenizeStage",
    "select": "pomona.stages.select:SelectStage",
    "examples": "pomona.stages.examples:ExamplesStage",
    "images": "pomona.stages.images:ImagesStage",
    "pretrain": "pomona.stages.pretrain:PretrainStage",
    "continue": "pomona.stages.continuing:ContinueStage",
    "distil": "pomona.stages.distil:DistilStage",
    "grow": "pomona.stages.grow:GrowStage",
    "convert": "pomona.stages.convert:ConvertStage",
    "merge": "pomona.stages.merge:MergeStage",
    "prune": "pomona.stages.prune:PruneStage",
    "adapt": "pomona.stages.adapt:AdaptStage",
    "learn": "pomona.stages.learn:LearnStage",
    "quantize": "pomona.stages.quantize:QuantizeStage",
    "probe": "pomona.stages.probing:ProbeStage",
    "attack": "pomona.stages.attacking:AttackStage",
    "examine": "pomona.stages.examine:ExamineStage",
    "export": "pomona.stages.export:ExportStage",
    "report": "pomona.stages.report:ReportStage",
}


def stage_class(verb: str) -> type[Stage]:
    """The definition of a stage. Importing it does not import torch."""
    if verb not in VERBS:
        raise ConfigError(f"unknown stage {verb!r}", do=did_you_mean(verb, VERBS))
    module, _, name = VERBS[verb].partition(":")
    found: type[Stage] = getattr(importlib.import_module(module), name)
    return found
