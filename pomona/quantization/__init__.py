"""Few bits per weight: grids, round-to-nearest, GPTQ, packed storage and export."""

from __future__ import annotations

from pomona.quantization.codes import QuantizedWeight
from pomona.quantization.export import Export, check_export, load_compressed, save_compressed
from pomona.quantization.gptq import GptqConfig, gptq_
from pomona.quantization.grid import Grid, dequantize, fit_grid, quantize
from pomona.quantization.packing import pack, unpack
from pomona.quantization.report import QuantizationReport, WeightReport
from pomona.quantization.rtn import RoundToNearestConfig, quantize_rtn_, round_to_nearest
from pomona.quantization.solver import gptq_solve

__all__ = [
    "Export",
    "GptqConfig",
    "Grid",
    "QuantizationReport",
    "QuantizedWeight",
    "RoundToNearestConfig",
    "WeightReport",
    "check_export",
    "dequantize",
    "fit_grid",
    "gptq_",
    "gptq_solve",
    "load_compressed",
    "pack",
    "quantize",
    "quantize_rtn_",
    "round_to_nearest",
    "save_compressed",
    "unpack",
]
