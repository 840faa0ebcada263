"""What a quantization did, weight by weight, with the codes that an export needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pomona.quantization.codes import QuantizedWeight


@dataclass(frozen=True)
class WeightReport:
    """One weight.

    Args:
        name: state-dict name of the parameter that holds it.
        role: what it does in its block, as "ffn.down".
        fused: the parameter holds other weights too.
        transposed: the parameter is stored as (inputs, outputs).
        outputs, inputs: its canonical shape.
        bits_per_weight: stored bits per weight, scales and zero points included.
        error: mean over calibration tokens of the squared deviation of its outputs, summed over outputs; None without
            calibration.
        error_rtn: the same for round-to-nearest on the same kind of grid.
        kept_rtn: round-to-nearest was better and was kept.
        dead_inputs: inputs that were zero on all calibration tokens.
        damping: the fraction of the mean diagonal that was added to the Hessian; None without calibration.
        quantized: the codes.
    """

    name: str
    role: str
    fused: bool
    transposed: bool
    outputs: int
    inputs: int
    bits_per_weight: float
    quantized: QuantizedWeight = field(repr=False)
    error: float | None = None
    error_rtn: float | None = None
    kept_rtn: bool = False
    dead_inputs: int = 0
    damping: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the codes."""
        values = {name: value for name, value in vars(self).items() if name != "quantized"}
        return {**values, "group_size": self.quantized.group_size}


@dataclass(frozen=True)
class QuantizationReport:
    """A whole model.

    Args:
        method: slug of the method.
        config: its parameters.
        weights: every weight that was quantized, tied ones once.
        tokens: calibration tokens that were used (padding not counted).
        flops: of calibration passes, Hessians, factorizations and solvers.
        seconds: wall-clock of the whole quantization.
    """

    method: str
    config: dict[str, Any]
    weights: tuple[WeightReport, ...]
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    @property
    def quantized_weights(self) -> int:
        """Number of single weights on the grid."""
        return sum(weight.outputs * weight.inputs for weight in self.weights)

    @property
    def bits_per_weight(self) -> float:
        """Mean stored bits per quantized weight, scales and zero points included."""
        bits = sum(weight.bits_per_weight * weight.outputs * weight.inputs for weight in self.weights)
        return bits / max(self.quantized_weights, 1)

    @property
    def error(self) -> float | None:
        """Sum of the weights' output errors on the calibration inputs; None without calibration."""
        return _total([weight.error for weight in self.weights])

    @property
    def error_rtn(self) -> float | None:
        """The same sum for round-to-nearest."""
        return _total([weight.error_rtn for weight in self.weights])

    @property
    def kept_rtn(self) -> int:
        """Number of weights for which round-to-nearest was better and was kept."""
        return sum(weight.kept_rtn for weight in self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "method": self.method,
            "config": self.config,
            "tokens": self.tokens,
            "flops": self.flops,
            "seconds": self.seconds,
            "quantized_weights": self.quantized_weights,
            "bits_per_weight": self.bits_per_weight,
            "error": self.error,
            "error_rtn": self.error_rtn,
            "kept_rtn": self.kept_rtn,
            "weights": [weight.to_dict() for weight in self.weights],
        }


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
