"""Making a trained model smaller or sparser: whole heads, features and blocks, or single weights."""

from __future__ import annotations

from pomona.sparsity.block_removal import BlockRemovalConfig, remove_blocks_
from pomona.sparsity.config import PruningConfig
from pomona.sparsity.emergence import WeightStatistics, change_point, initial_spread, weight_statistics
from pomona.sparsity.essential_sparsity import (
    EssentialSparsityConfig,
    Scan,
    essential_sparsity_,
    scan_sparsity,
    sparsity_curve,
)
from pomona.sparsity.ffn_removal import FfnRemovalConfig, remove_features_
from pomona.sparsity.fixed_zeros import count_zeros, fixed_zeros
from pomona.sparsity.head_removal import HeadRemovalConfig, remove_heads_
from pomona.sparsity.magnitude import MagnitudeConfig, magnitude_
from pomona.sparsity.n_m_sparsity import NMSparsityConfig, n_m_sparsity_
from pomona.sparsity.report import Cut, SparsityReport
from pomona.sparsity.sltrain import Factored, SltrainConfig, sltrain_
from pomona.sparsity.spdf import SpdfConfig, random_mask, spdf_
from pomona.sparsity.start import HeldZeros, Started, zero_flops
from pomona.sparsity.units import cut_, feature_spaces, head_spaces, masked, skipped

__all__ = [
    "BlockRemovalConfig",
    "Cut",
    "EssentialSparsityConfig",
    "Factored",
    "FfnRemovalConfig",
    "HeadRemovalConfig",
    "HeldZeros",
    "MagnitudeConfig",
    "NMSparsityConfig",
    "PruningConfig",
    "Scan",
    "SltrainConfig",
    "SparsityReport",
    "SpdfConfig",
    "Started",
    "WeightStatistics",
    "change_point",
    "count_zeros",
    "cut_",
    "essential_sparsity_",
    "feature_spaces",
    "fixed_zeros",
    "head_spaces",
    "initial_spread",
    "magnitude_",
    "masked",
    "n_m_sparsity_",
    "random_mask",
    "remove_blocks_",
    "remove_features_",
    "remove_heads_",
    "scan_sparsity",
    "skipped",
    "sltrain_",
    "sparsity_curve",
    "spdf_",
    "weight_statistics",
    "zero_flops",
]
