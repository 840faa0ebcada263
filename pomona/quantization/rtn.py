"""Round to nearest: put every weight on the nearest point of its group's grid.

Source: folklore; the baseline "RTN" of Frantar et al., "GPTQ", ICLR 2023, arXiv:2210.17323.
Implements: the min-max grid of Sec. 4 per row or group, optionally with the search of a smaller clipping range.
Deviations: none.
Use when: at 8 bits, or when there is no calibration text. Cost: one pass over the weights; no data, no forward pass.
Relations: `gptq` on inputs that are not correlated (H = c I) gives the same codes.
Limits: linear maps inside the blocks; embeddings, norms and the head stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pomona import anatomy
from pomona.quantization.codes import QuantizedWeight, on_grid
from pomona.quantization.config import GridConfig
from pomona.quantization.grid import Grid, fit_grid
from pomona.quantization.report import QuantizationReport
from pomona.quantization.surgery import choose, put

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class RoundToNearestConfig(GridConfig):
    """Round every weight to its group's grid. Needs no data."""

    method: Literal["rtn"] = "rtn"

    def apply_(
        self, model: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]] | None = None
    ) -> QuantizationReport:
        """Quantize `model` in place. `batches` is not used."""
        return quantize_rtn_(model, self)


def round_to_nearest(weight_OI: Tensor, grid: Grid, *, dtype: torch.dtype | None = None) -> QuantizedWeight:
    """Fit the grid to a weight and round every entry to it.

    Args:
        weight_OI: finite weights, any float dtype.
        dtype: the dtype in which scales will be stored.
    """
    scale_OG, zero_OG = fit_grid(weight_OI, grid, dtype=dtype)
    return on_grid(weight_OI, scale_OG, zero_OG, grid)


@torch.no_grad()
def quantize_rtn_(model: PreTrainedModel, config: RoundToNearestConfig | None = None) -> QuantizationReport:
    """Quantize the linear maps inside the blocks of `model` in place. Raises before the first change."""
    config = config or RoundToNearestConfig()
    begin = time.perf_counter()
    weights = choose(anatomy.of(model), config)
    with anatomy.touched(model, config.method):
        reports = [
            put(weight, round_to_nearest(weight.read(), config.grid, dtype=weight.parameter.dtype))
            for weight in weights
        ]
    return QuantizationReport(
        method=config.method,
        config=config.model_dump(mode="json"),
        weights=tuple(reports),
        seconds=time.perf_counter() - begin,
    )
