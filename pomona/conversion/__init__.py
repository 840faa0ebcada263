"""Giving a trained model another form that computes the same."""

from __future__ import annotations

from pomona.conversion.pre_crmsnorm import PreCrmsnormConfig, pre_crmsnorm_
from pomona.conversion.report import ConversionReport

__all__ = ["ConversionReport", "PreCrmsnormConfig", "pre_crmsnorm_"]
