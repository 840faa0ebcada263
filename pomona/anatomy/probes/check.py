"""The outcome of an experiment, and what counts as equal and as different."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

EQUAL = 1e-5
"""Largest relative difference of what ought to be equal. Models take norms in float32 whatever their dtype is."""
DIFFERENT = 1e-3
"""Smallest relative difference that counts as an effect."""


@dataclass(frozen=True)
class Check:
    """The outcome of one experiment.

    Args:
        probe: name of the probe.
        part: what it was made on.
        passed: the declaration told the truth.
        found: the measured number, or what was found instead.
    """

    probe: str
    part: str
    passed: bool
    found: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'} {self.probe}: {self.part} ({self.found})"


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected number; infinite when not finite."""
    relative = float((found - expected).abs().max() / expected.abs().max())
    return relative if relative == relative else float("inf")


def equal(probe: str, part: str, found: Tensor, expected: Tensor) -> Check:
    """The check that two tensors are the same up to rounding."""
    error = difference(found, expected)
    return Check(probe, part, error < EQUAL, f"difference {error:.1e}")
