"""Knee: where a curve of loss against sparsity bends, and how sharply. Mathematics of numbers, without models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHARP = 3.0
"""How many times as steep a curve has to be after its knee as before for the knee to count as one. A choice of ours."""
BETTER = 0.5
"""What share of the squared error of one straight line the second one has to take away. A choice of ours, too."""


@dataclass(frozen=True, order=True)
class Measured:
    """The loss at a sparsity."""

    sparsity: float
    loss: float


@dataclass(frozen=True)
class Knee:
    """Two straight lines that meet, fitted to a curve by least squares.

    Args:
        at: the sparsity at which they meet.
        slope_before, slope_after: change of the loss by one unit of sparsity.
        gain: share of the squared error of a single line that two lines take away, in [0, 1].
    """

    at: float
    slope_before: float
    slope_after: float
    gain: float

    @property
    def sharpness(self) -> float | None:
        """How many times as steep the curve is after the knee; None where it does not rise before."""
        return self.slope_after / self.slope_before if self.slope_before > 0 else None

    @property
    def sharp(self) -> bool:
        """Whether the loss rises much faster after the knee than before, and not in a straight line."""
        steeper = self.slope_after > 0 and (self.sharpness is None or self.sharpness >= SHARP)
        return steeper and self.gain >= BETTER


def find_knee(curve: Sequence[Measured]) -> Knee | None:
    """The two-segment least-squares fit of a curve; None with fewer than four different sparsities.

    For each place k of a fine grid, loss = a + b * s + c * max(0, s - k) is fitted; the best k wins. Every segment has
    at least two points, the knee included.
    """
    points = sorted(set(curve))
    s, y = np.array([p.sparsity for p in points]), np.array([p.loss for p in points])
    if len(np.unique(s)) < 4:
        return None
    line = np.stack([np.ones_like(s), s], axis=1)
    _, alone = _fit(line, y)
    best: tuple[float, Knee] | None = None
    inner = np.unique(s)[1:-1]
    for k in np.linspace(inner[0], inner[-1], 8 * (len(inner) - 1) + 1):
        (_, b, c), error = _fit(np.column_stack([line, np.maximum(0.0, s - k)]), y)
        if best is None or error < best[0]:
            gain = 1.0 - error / alone if alone > 0 else 0.0
            best = error, Knee(float(k), float(b), float(b + c), gain)
    assert best is not None
    return best[1]


def largest_within(
    loss_at: Callable[[float], float], *, dense: float, tolerance: float, step: float, resolution: float
) -> tuple[float, list[Measured]]:
    """The largest sparsity up to which the loss stays within a tolerance of the dense one, and all that was measured.

    A grid first, then bisection between the last sparsity before the first excess and that one, so that a curve which
    comes back further on does not count.

    Args:
        loss_at: measures a sparsity in (0, 1).
        dense: the loss at sparsity 0.
        tolerance: relative, of the dense loss.
        step: of the grid, which ends below 1.
        resolution: of the answer.
    """
    limit = dense + tolerance * abs(dense)
    grid = [round(step * place, 10) for place in range(1, round(1.0 / step + 0.5)) if step * place < 1.0 - 1e-9]
    curve = [Measured(0.0, dense), *(Measured(s, loss_at(s)) for s in grid)]
    beyond = next((place for place, point in enumerate(curve) if not point.loss <= limit), None)
    if beyond is None:
        return curve[-1].sparsity, curve
    low, high = curve[beyond - 1].sparsity, curve[beyond].sparsity
    while high - low > resolution + 1e-9:
        middle = (low + high) / 2
        measured = Measured(middle, loss_at(middle))
        curve.append(measured)
        low, high = (middle, high) if measured.loss <= limit else (low, middle)
    return low, sorted(curve)


def _fit(terms: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Least-squares coefficients, and the squared error that is left; 0 where it is rounding."""
    found = np.asarray(np.linalg.lstsq(terms, y, rcond=None)[0], dtype=np.float64)
    error = float(np.square(terms @ found - y).sum())
    return found, error if error > 1e-24 * float(np.square(y).sum()) else 0.0
