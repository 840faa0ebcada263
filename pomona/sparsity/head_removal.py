"""Head removal: take out whole attention heads, of self and cross attention, and make every matrix smaller.

Source: "Are Sixteen Heads Really Better than One?", NeurIPS 2019, arXiv:1905.10650, Sec. 4 (Eq. 2 and the importance
score I_h below it).
Implements: I_h = mean over sequences of |dL/dg_h| for a gate g_h = 1 on the output of head h, divided by the norm over
    the heads of an attention where heads of the whole model are compared (Sec. 4.1); removal in one step. As other
    scores the root mean square of a head's weights, and random.
Deviations: heads are cut out, not masked; both give the same outputs. Removal is one step instead of 10 % at a time:
    apply it several times for that.
Use when: attention is a large part of the cost, or as the baseline of methods that learn what to remove. Train on
    afterwards. Cost: one pass forward and back over the calibration batches for `taylor`, else none.
Relations: `ffn-removal` does the same to features, `block-removal` to blocks.
Limits: where several query heads share keys and values, they go together, or each group loses as many. Models with a
    norm over all heads together are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pomona.anatomy import Anatomy, Space
from pomona.sparsity.report import SparsityReport
from pomona.sparsity.unit_removal import UnitRemoval
from pomona.sparsity.units import head_spaces

if TYPE_CHECKING:
    from pomona.engine import Batch, Objective


class HeadRemovalConfig(UnitRemoval):
    """Remove attention heads."""

    method: Literal["head-removal"] = "head-removal"
    groups: Literal["whole", "within"] = "whole"
    """With grouped queries: `whole` key-value heads with their queries, or query heads `within` each group, as many."""

    def spaces(self, body: Anatomy) -> list[Space]:
        return head_spaces(body, within_groups=self.groups == "within")


def remove_heads_(
    model: Any,
    config: HeadRemovalConfig | None = None,
    batches: Sequence[Batch] = (),
    objective: Objective | None = None,
) -> SparsityReport:
    """Remove heads of `model` in place; see `PruningConfig.apply_`."""
    return (config or HeadRemovalConfig()).apply_(model, batches, objective)
