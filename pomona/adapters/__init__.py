"""Adapting a trained model to a task with few parameters, or all."""

from __future__ import annotations

from pomona.adapters.adapter import Adapter, AdapterConfig
from pomona.adapters.full import FullConfig, full_
from pomona.adapters.head import HeadConfig, head_

__all__ = ["Adapter", "AdapterConfig", "FullConfig", "HeadConfig", "full_", "head_"]
