"""From scores to what is kept."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pomona.ground.errors import DataError


def keep_highest(scores: NDArray[np.float64], ratio: float) -> NDArray[np.int64]:
    """Numbers of the floor(ratio * n) highest scores in ascending order, so that the corpus keeps its order.

    Among equal scores the first is kept first, therefore what a smaller ratio keeps is part of what a larger one does.

    Raises:
        DataError: a score is not a number, or nothing would be left.

    Example:
        >>> keep_highest(np.array([0.1, 0.7, 0.3, 0.7, -1.0]), 0.6).tolist()
        [1, 2, 3]
    """
    if not np.isfinite(scores).all():
        wrong = int((~np.isfinite(scores)).sum())
        raise DataError("chunks cannot be ranked", found=f"{wrong} of {len(scores)} scores are not finite")
    count = math.floor(ratio * len(scores) + 1e-9)  # 0.29 * 100 is 28.999...
    if count < 1:
        raise DataError(
            "the selection is empty",
            found=f"{ratio:g} of {len(scores)} chunks",
            do="raise ratio, or shorten the chunks",
        )
    order = np.argsort(-scores, kind="stable")
    return np.sort(order[:count]).astype(np.int64)
