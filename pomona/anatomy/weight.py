"""Weight: a view of one parameter, or of a part of one, in canonical orientation whatever stores it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from pomona.anatomy.space import Axis
from pomona.ground.errors import UnsupportedModel


@dataclass(frozen=True)
class Runs:
    """Which rows of a parameter are a weight's: of every `period` rows, `size` from `start` on; `count` periods.

    One period is a part of a fused parameter, as [query; key; value]. Several are parts that alternate, as the query,
    key and value of one head after those of another, or gate and up of one expert after those of another.
    """

    count: int
    period: int
    start: int
    size: int

    @property
    def rows(self) -> slice | Tensor:
        """The rows as an index: a slice when they lie together, else int64."""
        if self.count == 1:
            return slice(self.start, self.start + self.size)
        first = torch.arange(self.count, device="cpu") * self.period + self.start
        return (first[:, None] + torch.arange(self.size, device="cpu")).flatten()


@dataclass(frozen=True, eq=False)
class Weight:
    """A view of a parameter. It holds no copy: what is written is what the model computes with.

    A parameter of three axes holds the maps of several experts: (expert, outputs, inputs). A weight is one of them
    (`expert` says which), or all of them as one map: stacked where their outputs differ (up, gate), side by side where
    their inputs do (down).

    Args:
        role: what it does, as "attention.query", "ffn.down", "norm_ffn.gain", "embedding", "head.bias".
        name: path of the whole parameter in the model's state dict.
        owner: the module that holds the parameter.
        attribute: the parameter's name in `owner`.
        axes: canonical axes. A linear map has (outputs, inputs), a table (rows, features), a vector has one axis.
        kind: "linear", "table" (looked up by index) or "vector" (bias, gain).
        transposed: the parameter is stored as (inputs, outputs).
        runs: which of the stored outputs are this weight's, when several are fused in one parameter.
        expert: which of the maps of a parameter with three axes.
        beside: all maps of a parameter with three axes, their inputs one after another.
        folded: stored with more axes: leading ones of size 1 (a token), or kernel axes, which count as inputs.
        bias: the bias that is added to a linear map's outputs.
    """

    role: str
    name: str
    owner: nn.Module = field(repr=False)
    attribute: str
    axes: tuple[Axis, ...]
    kind: Literal["linear", "table", "vector"]
    transposed: bool = False
    runs: Runs | None = None
    expert: int | None = None
    beside: bool = False
    folded: bool = False
    bias: Weight | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        found = self._merged(tuple(self._split(self.parameter).shape))
        if found != self.shape:
            raise UnsupportedModel(
                f"the declaration does not fit {self.name} ({self.role})",
                needs=f"{' x '.join(axis.name for axis in self.axes)} = {self.shape}",
                found=f"{found}",
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
        return self.expert is not None or (self.runs is not None and self.runs.size < self.runs.period)

    @property
    def routed(self) -> bool:
        """True for the maps of experts."""
        return self.parameter.dim() == 3 and not self.folded

    @property
    def rows(self) -> slice | Tensor | None:
        """Index of this weight's outputs among those of its module, or None when they are all its own."""
        return None if self.runs is None else self.runs.rows

    @property
    def key(self) -> tuple[int, int | None, Runs | None]:
        """What tells two views of the same numbers: equal for tied weights, different for fused ones."""
        return id(self.parameter), self.expert, self.runs

    def numel(self) -> int:
        """Number of entries of this weight (not of the parameter that holds it)."""
        return int(torch.Size(self.shape).numel())

    def read(self) -> Tensor:
        """The canonical tensor, detached: (outputs, inputs) of a linear map. It may share memory; do not edit it."""
        return self.canonical(self.parameter.detach())

    def write_(self, values: Tensor) -> None:
        """Replace the entries by `values` (canonical shape; any float dtype, converted to the parameter's own)."""
        self.put_(self.parameter, values)

    @torch.no_grad()
    def put_(self, stored: Tensor, values: Tensor) -> None:
        """Write `values` (canonical shape) where this weight lies in a tensor that lies as the parameter does."""
        if tuple(values.shape) != self.shape:
            raise ValueError(f"{self.role} has shape {self.shape}, not {tuple(values.shape)}")
        split = stored if self.folded else self._split(stored)
        split.copy_(values.reshape(split.shape))

    def canonical(self, stored: Tensor) -> Tensor:
        """What a tensor that lies as the parameter does (its gradient, a mask) holds for this weight.

        Returns:
            The canonical shape; it may share memory with `stored`.
        """
        return self._split(stored).reshape(self.shape)

    def apply(self, inputs: Tensor) -> Tensor:
        """(..., outputs) of (..., inputs): what this linear map alone computes, bias included, differentiable."""
        if self.kind != "linear" or self.folded:
            raise ValueError(f"{self.role} is a {'convolution' if self.folded else self.kind}, not a linear map")
        bias = None if self.bias is None else self.bias.canonical(self.bias.parameter)
        return nn.functional.linear(inputs, self.canonical(self.parameter), bias)

    def weights(self) -> list[Weight]:
        """Itself and, where there is one, its bias."""
        return [self] if self.bias is None else [self, self.bias]

    def bias_read(self) -> Tensor | None:
        """The bias as (outputs,), detached, or None."""
        return None if self.bias is None else self.bias.read()

    def _split(self, stored: Tensor) -> Tensor:
        """A view of `stored` whose axes are the canonical ones, some of them in two parts."""
        if self.folded:
            leading = tuple(range(stored.dim() - len(self.axes)))
            return stored.flatten(1) if self.kind == "linear" else stored.squeeze(leading)
        if self.transposed:
            stored = stored.transpose(-1, -2)
        if self.expert is not None:
            stored = stored[self.expert]
        runs = self.runs
        if runs is not None:
            if runs.count > 1 and stored.dim() == len(self.axes):
                stored = stored.view(runs.count, runs.period, *stored.shape[1:])
            dim = 0 if runs.count == 1 else 1
            stored = stored.narrow(dim, runs.start, runs.size)
        return stored.transpose(0, 1) if self.beside else stored

    def _merged(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The canonical shape of a `_split` of these sizes."""
        if len(sizes) == len(self.axes) or self.folded:
            return sizes
        return (sizes[0], sizes[1] * sizes[2]) if self.beside else (sizes[0] * sizes[1], *sizes[2:])


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

    def read(self) -> Tensor:
        """What the normalized features are multiplied by: offset + gain."""
        return self.gain.read() + self.offset

    def write_(self, values: Tensor) -> None:
        """Make `values` what the normalized features are multiplied by."""
        self.gain.write_(values - self.offset)

    def weights(self) -> list[Weight]:
        """Gain and, where there is one, bias."""
        return [self.gain] if self.bias is None else [self.gain, self.bias]
