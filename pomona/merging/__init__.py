"""One model out of several: arithmetic on the weights of models that were trained from one base."""

from __future__ import annotations

from pomona.merging.breadcrumbs import BreadcrumbsConfig
from pomona.merging.config import MergeConfig
from pomona.merging.dare import DareConfig
from pomona.merging.folders import MergeReport, Parent, merge_folders
from pomona.merging.linear import LinearConfig
from pomona.merging.model_stock import ModelStockConfig
from pomona.merging.models import merge
from pomona.merging.modular_slm_merge import ModularSlmMergeConfig
from pomona.merging.slerp import SlerpConfig
from pomona.merging.task_arithmetic import TaskArithmeticConfig
from pomona.merging.ties import TiesConfig

__all__ = [
    "BreadcrumbsConfig",
    "DareConfig",
    "LinearConfig",
    "MergeConfig",
    "MergeReport",
    "ModelStockConfig",
    "ModularSlmMergeConfig",
    "Parent",
    "SlerpConfig",
    "TaskArithmeticConfig",
    "TiesConfig",
    "merge",
    "merge_folders",
]
