"""Put a quantized weight into the model, and say so."""

from __future__ import annotations

from typing import Any

import torch

from pomona.anatomy import Anatomy, Weight
from pomona.ground.errors import PomonaError, UnsupportedModel
from pomona.quantization.codes import QuantizedWeight
from pomona.quantization.config import GridConfig, once
from pomona.quantization.report import WeightReport

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def choose(body: Anatomy, config: GridConfig) -> list[Weight]:
    """The weights to quantize, tied ones once. Raises before anything is changed if one of them cannot be."""
    config.check(body)
    weights = [weight for weight in once(body.weights()) if config.takes(weight)]
    for weight in weights:
        if weight.parameter.dtype not in FLOATS:
            raise UnsupportedModel(
                f"{weight.name} is not stored in floating point",
                where=weight.name,
                found=str(weight.parameter.dtype),
                do="quantize the original model, not one that is quantized already",
            )
        if not torch.isfinite(weight.read()).all():
            raise PomonaError(
                f"{weight.name} is not finite",
                where=weight.name,
                do="train again from the last good checkpoint, or load another model",
            )
    return weights


def put(weight: Weight, quantized: QuantizedWeight, **facts: Any) -> WeightReport:
    """Write the dequantized values into the model and report the weight. `facts`: fields of `WeightReport`."""
    weight.write_(quantized.dequantize())
    outputs, inputs = quantized.shape
    scale_bits = 8 * weight.parameter.dtype.itemsize
    return WeightReport(
        name=weight.name,
        role=weight.role,
        fused=weight.fused,
        transposed=weight.transposed,
        outputs=outputs,
        inputs=inputs,
        bits_per_weight=quantized.stored_bits(scale_bits) / (outputs * inputs),
        quantized=quantized,
        **facts,
    )
