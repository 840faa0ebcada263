"""Giving a trained model another form: one that computes the same, or one that is repaired afterwards."""

from __future__ import annotations

from pomona.conversion.pre_crmsnorm import PreCrmsnormConfig, pre_crmsnorm_
from pomona.conversion.report import ConversionReport
from pomona.conversion.x_ecomla import XEcomlaConfig, XEcomlaReport, x_ecomla_

__all__ = [
    "ConversionReport",
    "PreCrmsnormConfig",
    "XEcomlaConfig",
    "XEcomlaReport",
    "pre_crmsnorm_",
    "x_ecomla_",
]
