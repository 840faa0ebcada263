"""Special functions that methods and examinations need, and distributions built on them."""

from __future__ import annotations

from pomona.numerics.log_bessel import LogBesselConfig, iv_gap, iv_ratio, kv_ratio, log_iv, log_kv
from pomona.numerics.von_mises_fisher import Mixture, VonMisesFisher, fit_classes, fit_mixture, kappa_of, log_normalizer

__all__ = [
    "LogBesselConfig",
    "Mixture",
    "VonMisesFisher",
    "fit_classes",
    "fit_mixture",
    "iv_gap",
    "iv_ratio",
    "kappa_of",
    "kv_ratio",
    "log_iv",
    "log_kv",
    "log_normalizer",
]
