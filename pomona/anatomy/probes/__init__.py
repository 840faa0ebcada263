"""Probes: execute a model and see whether its declaration tells the truth.

Every probe takes the anatomy of a small random model in float64 (see `enlarged_copy`) and yields `Check`s. Each part of
a declaration is a claim; a probe is the experiment that would fail if the claim were wrong. `PROBES` lists them, cheap
ones first.
"""

from __future__ import annotations

from pomona.anatomy.probes.attention import probe_attention
from pomona.anatomy.probes.check import DIFFERENT, EQUAL, Check, difference
from pomona.anatomy.probes.depth import probe_blocks
from pomona.anatomy.probes.experts import probe_experts
from pomona.anatomy.probes.lab import enlarged_copy, normalize, outputs_of
from pomona.anatomy.probes.maps import probe_head_norms, probe_norms, probe_weights
from pomona.anatomy.probes.numbers import (
    probe_embedding,
    probe_forward,
    probe_gradients,
    probe_positions,
    probe_sizes,
    probe_unseen,
)
from pomona.anatomy.probes.placement import probe_placement
from pomona.anatomy.probes.roles import probe_roles
from pomona.anatomy.probes.scores import probe_rotary, probe_scores
from pomona.anatomy.probes.symmetry import probe_annotations, probe_fast, probe_rescaling, probe_spaces

PROBES = (
    probe_forward,
    probe_embedding,
    probe_positions,
    probe_sizes,
    probe_norms,
    probe_head_norms,
    probe_placement,
    probe_unseen,
    probe_weights,
    probe_scores,
    probe_roles,
    probe_rotary,
    probe_attention,
    probe_experts,
    probe_spaces,
    probe_fast,
    probe_blocks,
    probe_gradients,
    probe_rescaling,
    probe_annotations,
)

__all__ = [
    "DIFFERENT",
    "EQUAL",
    "PROBES",
    "Check",
    "difference",
    "enlarged_copy",
    "normalize",
    "outputs_of",
    "probe_forward",
    "probe_sizes",
    "probe_spaces",
]
