"""SVFit: train nothing but the singular values of the model's weights.

Source: "SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values", 2024,
    arXiv:2409.05926.
Implements: W = U diag(s) V^T once; W' = W + U_r diag(d) V_r^T, where d = sigma - s_r is all that is trained, from 0.
Deviations: d in place of sigma, which is the same function, bit-exact at the start, and free of weight decay on the
    pre-trained values. r is all singular values by default (the ratio of parameters that the paper reports), or as many
    as hold `energy` of the sum of squares; `nonneg` is a clamp in the forward pass.
Use when: very few parameters per layer shall be trained or stored. Cost: an SVD of each target, and two more products
    with bases as wide as r, without gradients of weights.
Relations: `lora` learns its directions, with (inputs + outputs) / 1 parameters for each rank, and needs lower rates;
    PiSSA trains the bases too, SVFT also entries off the diagonal.
Limits: routed experts are refused.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from pomona.adapters.adapter import Adapter
from pomona.adapters.deltas import Delta, DeltaAdapter
from pomona.adapters.peft_format import LowRank, write_lora
from pomona.adapters.targets import Role, targets_of
from pomona.anatomy import Anatomy
from pomona.ground.config import MethodConfig

TIE = 1e-6
"""Singular values that differ by less, relative to the larger one, have no unique basis."""


class SvfitConfig(MethodConfig):
    """Train the singular values of some weights."""

    method: Literal["svfit"] = "svfit"
    targets: tuple[Role, ...] = Field(default=("query", "value"), min_length=1)
    """The maps whose singular values are trained (the paper's: queries and values)."""
    rank: PositiveInt | None = None
    """How many of the largest singular values; None: all, or as `energy` says."""
    energy: float | None = Field(default=None, gt=0.0, le=1.0)
    """As many as hold this share of the sum of squared singular values, in each map; the paper's threshold is 0.99."""
    nonneg: bool = False
    """Keep every singular value at or above 0."""

    def attach_(self, body: Anatomy, *, head: Sequence[nn.Parameter] = (), seed: int = 0) -> Adapter:
        """Attach the trainable singular values; nothing is drawn."""
        return svfit_(body, self, head=head)


def leading(singular_K: Tensor, rank: int | None, energy: float | None) -> int:
    """How many singular values (descending) are trained: `rank`, those that hold `energy`, the fewer; by default all.

    Example:
        >>> leading(torch.tensor([3.0, 1.0, 0.1]), None, 0.99)
        2
    """
    count = len(singular_K) if rank is None else min(rank, len(singular_K))
    if energy is None:
        return count
    shares = singular_K.double().square().cumsum(0) / singular_K.double().square().sum()
    return min(count, int((shares < energy).sum()) + 1)


def signed(left_OK: Tensor, right_KI: Tensor) -> tuple[Tensor, Tensor]:
    """The bases with the largest entry of every left vector positive, so that a decomposition is always the same."""
    largest = left_OK.abs().argmax(0)
    signs = left_OK.gather(0, largest[None]).sign()
    return left_OK * signs, right_KI * signs.T


def tied(singular_K: Tensor, rank: int) -> bool:
    """Whether two of the first `rank` values, or the last of them and the next one, are equal up to `TIE`."""
    gaps = singular_K[:-1] - singular_K[1:]
    return bool((gaps[:rank] <= TIE * singular_K[:-1][:rank]).any())


class SingularValues(Delta):
    """U_r diag(d) V_r^T of one weight.

    Args:
        weight_OI: the pre-trained values, decomposed in float32 (float64 stays).
    """

    left: Tensor
    right: Tensor
    singular: Tensor

    def __init__(self, weight_OI: Tensor, rank: int | None, energy: float | None, nonneg: bool) -> None:
        super().__init__()
        wide = weight_OI if weight_OI.dtype == torch.float64 else weight_OI.float()
        left, singular, right = torch.linalg.svd(wide, full_matrices=False)
        if wide.is_meta:  # a plan asks for shapes alone
            count, keep = leading(singular, rank, None), False
            left, right = left[:, :count], right[:count]
        else:
            count = leading(singular, rank, energy)
            left, right = signed(left[:, :count], right[:count])
            keep = tied(singular, count)  # the bases of equal values depend on the library, so they are stored
        self.register_buffer("left", left.contiguous(), persistent=keep)
        self.register_buffer("right", right.contiguous(), persistent=keep)
        self.register_buffer("singular", singular[:count].clone(), persistent=False)
        self.change = nn.Parameter(torch.zeros_like(self.singular))
        self.retained = 1.0 if wide.is_meta else float(singular[:count].square().sum() / singular.square().sum())
        self.nonneg = nonneg

    def values(self) -> Tensor:
        """d (R): what is added to the singular values."""
        return self.change.clamp_min(-self.singular) if self.nonneg else self.change

    def forward(self, inputs: Tensor) -> Tensor:
        inner = nn.functional.linear(inputs.to(_product_dtype(inputs, self.right)), self.right)
        return nn.functional.linear(inner * self.values().to(inner.dtype), self.left)

    def dense(self) -> Tensor:
        return (self.left * self.values()) @ self.right


class SvfitAdapter(DeltaAdapter):
    """Trained singular values, with what happened to them."""

    def report(self) -> list[dict[str, Any]]:
        """For each weight: rank, retained energy, the largest relative change, and how many values changed sign."""
        found = []
        for name, delta in zip(self.names, self.deltas, strict=True):
            assert isinstance(delta, SingularValues)
            relative = delta.values().detach() / delta.singular.clamp_min(1e-30)
            found.append(
                {
                    "weight": name,
                    "rank": len(relative),
                    "energy": delta.retained,
                    "largest_change": float(relative.abs().max()),
                    "changed_sign": int((relative < -1).sum()),
                }
            )
        return found

    def export(self, folder: Path, base: str | None = None) -> None:
        """Write the same change as a LoRA that peft loads; with all singular values it is larger than the weights."""
        changes = []
        for delta in self.deltas:
            assert isinstance(delta, SingularValues)
            changes.append(LowRank(delta.right, delta.left * delta.values(), 1.0))
        write_lora(folder, self.weights, changes, base)


def svfit_(body: Anatomy, config: SvfitConfig | None = None, *, head: Sequence[nn.Parameter] = ()) -> SvfitAdapter:
    """Let the singular values of some weights be trained, and the head.

    Raises:
        UnsupportedModel: a target is not there, or belongs to experts.
    """
    config = config or SvfitConfig()
    start = time.perf_counter()
    weights = targets_of(body, config.targets, config.method)
    deltas = [SingularValues(weight.read(), config.rank, config.energy, config.nonneg) for weight in weights]
    settings = config.model_dump(mode="json", exclude={"method"})
    adapter = SvfitAdapter(body, weights, deltas, head, config.method, settings)
    adapter.cost = (sum(svd_flops(*weight.shape) for weight in weights), time.perf_counter() - start)
    return adapter


def load_svfit_(body: Anatomy, folder: Path, config: SvfitConfig | None = None) -> SvfitAdapter:
    """Attach a saved adapter to a fresh copy of its model."""
    adapter = svfit_(body, config)
    adapter.load_(folder)
    return adapter


def svd_flops(rows: int, columns: int) -> float:
    """FLOPs of a thin SVD with both bases, about 14 m n^2 + 8 n^3 for m >= n (Golub and Van Loan, Sec. 8.6)."""
    m, n = max(rows, columns), min(rows, columns)
    return 14.0 * m * n * n + 8.0 * n**3


def _product_dtype(inputs: Tensor, basis: Tensor) -> torch.dtype:
    """What the inputs must be for the product: autocast's choice stays its own."""
    return inputs.dtype if torch.is_autocast_enabled(inputs.device.type) else basis.dtype
