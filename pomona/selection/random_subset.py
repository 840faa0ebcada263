"""Random subset: keep chunks by lot, or what another lot has left.

Source: none; the baseline of every selector.
Implements: scores are a seeded permutation of the chunks' numbers.
Deviations: none.
Use when: a baseline, or to divide a corpus into parts without common text: the same seed with `part: rest` gives the
    complement. Cost: none.
Relations: what `miniplm` does when its two models are equally good.
Limits: none known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeInt

from pomona.selection.config import Role, SelectionConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class RandomSubsetConfig(SelectionConfig):
    """Keep chunks by lot."""

    method: Literal["random-subset"] = "random-subset"
    seed: NonNegativeInt = 0
    """Of the lot. It is the selection's own, so that a recipe's seeds share their data."""
    part: Literal["first", "rest"] = "first"
    """Which end of the order that is drawn: `first` of 0.2 and `rest` of 0.8 have no chunk in common."""

    def scores(self, nats: Mapping[Role, NDArray[np.float32]], count: int) -> NDArray[np.float64]:
        """A permutation of 0 ... count - 1."""
        import numpy as np

        from pomona.data.permutation import Permutation, derive_key

        order = Permutation(count, derive_key(self.seed, "selection"))(np.arange(count)).astype(np.float64)
        return order if self.part == "rest" else -order
