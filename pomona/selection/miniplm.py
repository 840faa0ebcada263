"""MiniPLM: keep the chunks that a teacher finds much more likely than a small reference model does.

Source: "MiniPLM: Knowledge Distillation for Pre-Training Language Models", ICLR 2025, arXiv:2410.17215, Sec. 2.2
(difference sampling, Eq. 4) and Sec. 3 (chunks of 1024 tokens, half of them kept, a reference of the student's size).
Implements: r(x) = l_ref(x) - l_teacher(x) with l(x) the mean negative log-likelihood of a chunk's tokens, which is
    log p(x) / p_ref(x) per token; the floor(ratio n) chunks of highest r are kept, in the order of the corpus.
Deviations: none in the selection. Ends of documents are not counted in l; equal scores fall to the first chunk.
Use when: a larger model of the same tokens is at hand and more text than the student will read. Cost: one forward pass
    of both models over the corpus, 2 (N_teacher + N_ref) FLOPs per token, once for any number of students and ratios.
Relations: with the teacher as reference nothing is chosen (the first chunks are kept). `perplexity-filter` ranks by one
    model alone and falls for text that everybody finds easy; `random-subset` is the baseline of both.
Limits: both models read the corpus's own tokens. The reference must not have been trained on what it scores, and must
    be weaker than the teacher, or r is noise (a warning says so). Students with another tokenizer: `texts: true`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pomona.selection.config import Role, SelectionConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class MiniplmConfig(SelectionConfig):
    """Keep what the teacher likes much better than the reference does."""

    method: Literal["miniplm"] = "miniplm"

    models: ClassVar[tuple[Role, ...]] = ("teacher", "reference")

    def scores(self, nats: Mapping[Role, NDArray[np.float32]], count: int) -> NDArray[np.float64]:
        """See `difference`."""
        return difference(nats["teacher"], nats["reference"])


def difference(teacher_nats: NDArray[np.float32], reference_nats: NDArray[np.float32]) -> NDArray[np.float64]:
    """r = l_ref - l_teacher of every chunk (Eq. 4), in nats per token; positive where the teacher does better.

    Example:
        >>> import numpy as np
        >>> difference(np.array([2.0, 1.0], dtype=np.float32), np.array([3.5, 1.0], dtype=np.float32)).tolist()
        [1.5, 0.0]
    """
    import numpy as np

    return reference_nats.astype(np.float64) - teacher_nats.astype(np.float64)
