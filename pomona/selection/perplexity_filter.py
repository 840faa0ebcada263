"""Perplexity filter: keep the chunks that one model finds most likely.

Source: "CCNet: Extracting High Quality Monolingual Datasets from Web Crawl Data", LREC 2020, arXiv:1911.00359, Sec. 4
(documents ranked by the perplexity of a language model).
Implements: score = -l(x), l(x) being the mean negative log-likelihood of a chunk's tokens under the model.
Deviations: chunks in place of documents, any causal model in place of a 5-gram one.
Use when: a baseline for selectors that compare two models. Cost: one forward pass over the corpus.
Relations: `miniplm` subtracts what a small model finds likely too, such as repetition.
Limits: prefers easy and repetitive text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pomona.selection.config import Role, SelectionConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PerplexityFilterConfig(SelectionConfig):
    """Keep what one model finds most likely."""

    method: Literal["perplexity-filter"] = "perplexity-filter"
    by: Role = "teacher"
    """Which model ranks."""

    @property
    def roles(self) -> tuple[Role, ...]:
        return (self.by,)

    def scores(self, nats: Mapping[Role, NDArray[np.float32]], count: int) -> NDArray[np.float64]:
        """-l(x) of every chunk."""
        import numpy as np

        return -nats[self.by].astype(np.float64)
