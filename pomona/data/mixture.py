"""Several token sequences read together, each with a share of every batch that may change with the step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pomona.data.tokens import Split
from pomona.ground.errors import ConfigError

Weight = float | Sequence[tuple[int, float]]


class Mixture:
    """Splits with weights: a number, or points `((step, weight), ...)` joined by straight lines, flat outside.

    Only the proportions matter: the weights of one step are divided by their sum.

    Example:
        Mixture([(docs, 1.0), (code, ((0, 0.0), (1000, 1.0)))])   # half of every batch is code from step 1000 on
    """

    def __init__(self, parts: Sequence[tuple[Split, Weight]]) -> None:
        if not parts:
            raise ConfigError("a mixture needs at least one source")
        self.splits = [split for split, _ in parts]
        self._points = [self._as_points(split, weight) for split, weight in parts]
        knots = np.unique(np.concatenate([steps for steps, _ in self._points]))
        dead = knots[self._raw(knots).sum(axis=1) <= 0]
        if len(dead):
            raise ConfigError(
                "no source of the mixture has any weight", where=f"step {int(dead[0])}", do="give one a weight above 0"
            )
        self._knots = knots

    @staticmethod
    def _as_points(split: Split, weight: Weight) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        points = [(0, float(weight))] if isinstance(weight, int | float) else list(weight)
        steps, weights = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
        if (np.diff(steps) <= 0).any() or not np.isfinite(weights).all() or (weights < 0).any():
            raise ConfigError(
                f"the weights of {split.name!r} are not valid",
                needs="steps in ascending order, weights that are finite and not negative",
                found=repr(points),
            )
        return steps, weights

    def _raw(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([np.interp(steps, *points) for points in self._points], axis=1)

    def shares(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """(steps, sources): the fraction of a batch that each source serves; rows sum to 1."""
        raw = self._raw(steps.astype(np.float64))
        shares: NDArray[np.float64] = raw / raw.sum(axis=1, keepdims=True)
        return shares

    def largest_shares(self) -> NDArray[np.float64]:
        """(sources,): the largest share that each source ever has (shares peak at the given points)."""
        largest: NDArray[np.float64] = self.shares(self._knots.astype(np.int64)).max(axis=0)
        return largest

    def counts(self, steps: NDArray[np.int64], numbers: NDArray[np.int64], lanes: int) -> NDArray[np.int64]:
        """(steps, sources): how many of `lanes` sequences each source serves; rows sum to `lanes`.

        Systematic rounding: one point in [0, 1), here the golden-ratio sequence at `numbers`, shifts all partial
        sums before they are rounded down. Every count is within 1 of its share, none is negative, and sums over
        consecutive steps stay close to the exact share.
        """
        shift = (numbers * 0.6180339887498949) % 1.0
        sums = np.floor(np.cumsum(self.shares(steps), axis=1) * lanes + shift[:, None]).astype(np.int64)
        sums[:, -1] = lanes
        return np.diff(np.minimum(sums, lanes), axis=1, prepend=0)
