"""One model out of several: arithmetic on the weights of models that were trained from one base."""

from __future__ import annotations

from pomona.merging.breadcrumbs import BreadcrumbsConfig, breadcrumbs
from pomona.merging.config import MergeConfig
from pomona.merging.dare import DareConfig, dare
from pomona.merging.linear import LinearConfig, linear
from pomona.merging.merge import merge
from pomona.merging.model_stock import ModelStockConfig, model_stock
from pomona.merging.slerp import SlerpConfig, slerp
from pomona.merging.task_arithmetic import TaskArithmeticConfig, task_arithmetic
from pomona.merging.ties import TiesConfig, ties

__all__ = [
    "BreadcrumbsConfig",
    "DareConfig",
    "LinearConfig",
    "MergeConfig",
    "ModelStockConfig",
    "SlerpConfig",
    "TaskArithmeticConfig",
    "TiesConfig",
    "breadcrumbs",
    "dare",
    "linear",
    "merge",
    "model_stock",
    "slerp",
    "task_arithmetic",
    "ties",
]
