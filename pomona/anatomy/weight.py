"""Weight: a view of one parameter, or of a part of one, in canonical orientation whatever stores it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from pomona.anatomy.space import Axis
from pomona.ground.errors import UnsupportedModel


@dataclass(frozen=True, eq=False)
class Weight:
    """A view of a parameter. It holds no copy: what is written is what the model computes with.

    Args:
        role: what it does, as "attention.query", "ffn.down", "norm_ffn.gain", "embedding", "head.bias".
        name: path of the whole parameter in the model's state dict.
        owner: the module that holds the parameter.
        attribute: the parameter's name in `owner`.
        axes: canonical axes. A linear map has (outputs, inputs), a table (rows, features), a vector has one axis.
        kind: "linear", "table" (looked up by index) or "vector" (bias, gain).
        transposed: the parameter is stored as (inputs, outputs).
        rows: the slice of the canonical first axis that is this weight, when several are fused in one parameter.
        bias: the bias that is added to a linear map's outputs.
    """

    role: str
    name: str
    owner: nn.Module = field(repr=False)
    attribute: str
    axes: tuple[Axis, ...]
    kind: Literal["linear", "table", "vector"]
    transposed: bool = False
    rows: slice | None = None
    bias: Weight | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shape, expected = tuple(self._view().shape), tuple(axis.size for axis in self.axes)
        if shape != expected:
            raise UnsupportedModel(
                f"the declaration does not fit {self.name} ({self.role})",
                needs=f"{' x '.join(axis.name for axis in self.axes)} = {expected}",
                found=f"{shape}",
                do="correct the configuration or the declaration of this model's shape",
            )

    @property
    def parameter(self) -> nn.Parameter:
        """The whole parameter that holds this weight, in its stored layout; shared by fused and tied weights."""
        parameter = getattr(self.owner, self.attribute)
        assert isinstance(parameter, nn.Parameter)
        return parameter

    @property
    def spaces(self) -> tuple[Axis, ...]:
        """The axes again, by the name under which methods ask for them: (outputs, inputs) of a linear map."""
        return self.axes

    @property
    def shape(self) -> tuple[int, ...]:
        """Canonical shape."""
        return tuple(axis.size for axis in self.axes)

    @property
    def fused(self) -> bool:
        """True when the parameter holds other weights too."""
        return self.rows is not None

    def numel(self) -> int:
        """Number of entries of this weight (not of the parameter that holds it)."""
        return int(torch.Size(self.shape).numel())

    def read(self) -> Tensor:
        """The canonical tensor, detached: (outputs, inputs) of a linear map. It may share memory; do not edit it."""
        return self._view().detach()

    @torch.no_grad()
    def write_(self, values: Tensor) -> None:
        """Replace the entries by `values` (canonical shape; any float dtype, converted to the parameter's own)."""
        if tuple(values.shape) != self.shape:
            raise ValueError(f"{self.role} has shape {self.shape}, not {tuple(values.shape)}")
        self._view().copy_(values)

    def apply(self, inputs: Tensor) -> Tensor:
        """(..., outputs) of (..., inputs): what this linear map alone computes, bias included, differentiable."""
        if self.kind != "linear":
            raise ValueError(f"{self.role} is a {self.kind}, not a linear map")
        return nn.functional.linear(inputs, self._view(), None if self.bias is None else self.bias._view())

    def bias_read(self) -> Tensor | None:
        """The bias as (outputs,), detached, or None."""
        return None if self.bias is None else self.bias.read()

    def _view(self) -> Tensor:
        view: Tensor = self.parameter
        if self.transposed:
            view = view.T
        return view if self.rows is None else view[self.rows]


@dataclass(frozen=True, eq=False)
class Norm:
    """A normalization with learned gain.

    Args:
        kind: "rms" (x / rms(x)) or "layer" (mean removed first).
        module: the module that computes it.
        gain: a vector over the normalized features.
        bias: a vector, or None.
        epsilon: what is added to the mean square.
        offset: the module multiplies by offset + gain.
    """

    kind: Literal["rms", "layer"]
    module: nn.Module = field(repr=False)
    gain: Weight
    bias: Weight | None
    epsilon: float
    offset: float = 0.0

    def weights(self) -> list[Weight]:
        """Gain and, where there is one, bias."""
        return [self.gain] if self.bias is None else [self.gain, self.bias]
