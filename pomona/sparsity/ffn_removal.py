"""FFN removal: take out features of feed-forward layers, and make every matrix smaller.

Source: "Importance Estimation for Neural Network Pruning", CVPR 2019, arXiv:1906.10771, Sec. 3 (first-order Taylor
expansion on a gate); "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv:1608.08710 (by magnitude).
Implements: I_m = mean over sequences of |dL/dg_m| for a gate g_m = 1 on feature m. As other scores the root mean square
    of a feature's weights, and random.
Deviations: the absolute value instead of the square; one step instead of many small ones: apply it several times for
    that.
Use when: feed-forward layers are most of the cost, as they are in most models. Train on afterwards. Cost: one pass
    forward and back over the calibration batches for `taylor`, else none.
Relations: `head-removal` does the same to heads, `block-removal` to blocks.
Limits: experts lose as many features each; the grouped products of transformers need a multiple of 8 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from pomona.anatomy import Anatomy, Space
from pomona.sparsity.report import SparsityReport
from pomona.sparsity.unit_removal import UnitRemoval
from pomona.sparsity.units import feature_spaces

if TYPE_CHECKING:
    from pomona.engine import Batch, Objective


class FfnRemovalConfig(UnitRemoval):
    """Remove features of feed-forward layers."""

    method: Literal["ffn-removal"] = "ffn-removal"
    multiple_of: PositiveInt = 8
    """The number of features that stay is rounded up to a multiple of this: hardware and experts ask for it."""

    def spaces(self, body: Anatomy) -> list[Space]:
        return feature_spaces(body)

    @property
    def multiple(self) -> int:
        return self.multiple_of


def remove_features_(
    model: Any,
    config: FfnRemovalConfig | None = None,
    batches: Sequence[Batch] = (),
    objective: Objective | None = None,
) -> SparsityReport:
    """Remove features of `model` in place; see `PruningConfig.apply_`."""
    return (config or FfnRemovalConfig()).apply_(model, batches, objective)
