"""Adapting a trained model to a task with few parameters, or all."""

from __future__ import annotations

from pomona.adapters.adapter import Adapter, AdapterConfig
from pomona.adapters.dylora import DyloraConfig, dylora_, select_rank
from pomona.adapters.full import FullConfig, full_
from pomona.adapters.head import HeadConfig, head_
from pomona.adapters.loading import attach, load
from pomona.adapters.lora import LoraConfig, lora_
from pomona.adapters.meft import MeftConfig, meft_
from pomona.adapters.svfit import SvfitConfig, svfit_

__all__ = [
    "Adapter",
    "AdapterConfig",
    "DyloraConfig",
    "FullConfig",
    "HeadConfig",
    "LoraConfig",
    "MeftConfig",
    "SvfitConfig",
    "attach",
    "dylora_",
    "full_",
    "head_",
    "load",
    "lora_",
    "meft_",
    "select_rank",
    "svfit_",
]
