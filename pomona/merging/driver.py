"""From parents to merged tensors: put the experts in an order of their own, and give each merged tensor by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import xxhash
from torch import Tensor

from pomona.ground.errors import DataError
from pomona.merging.config import MergeConfig, Parents

FloatType = Literal["float32", "bfloat16", "float16"]
"""Name of the dtype that merged weights are stored in."""


def in_order(
    base: Mapping[str, Tensor],
    experts: Sequence[Mapping[str, Tensor]],
    config: MergeConfig,
    names: Sequence[str],
    labels: Sequence[str],
) -> Parents:
    """The parents, with experts in an order that depends on their content (and weights) alone.

    Sums of floats and random masks depend on an order; so they do not depend on the one in which experts are given.

    Args:
        names: of the tensors to merge. They are read up to the first in which all experts differ.
        labels: of the base, then of the experts.
    """
    weights = config.factors(len(experts))
    groups = [sorted(range(len(experts)), key=lambda place: weights[place])]
    names = sorted(names)
    for name in names:
        if len(groups) == len(experts):
            break
        groups = [finer for group in groups for finer in _by_content(group, experts, name)]
    order = [place for group in groups for place in group]
    return Parents(
        base=base,
        experts=tuple(experts[place] for place in order),
        weights=tuple(weights[place] for place in order),
        names=tuple(names),
        labels=(labels[0], *(labels[1 + place] for place in order)),
    )


@torch.no_grad()
def merging(parents: Parents, config: MergeConfig, dtype: FloatType | None = None) -> Callable[[str], Tensor]:
    """What gives each merged tensor by its name. Whatever the method must know of all tensors is measured here."""
    merge_tensor = config.merger(parents)

    @torch.no_grad()
    def merged(name: str) -> Tensor:
        base, experts = parents.base[name], [expert[name] for expert in parents.experts]
        if not base.is_floating_point():
            _require_equal(name, base, experts, parents.labels)
            return base.clone()
        found = merge_tensor(name, base, experts).to(base.dtype if dtype is None else getattr(torch, dtype))
        if not bool(found.isfinite().all()):
            raise _not_finite(name, [base, *experts], parents.labels)
        return found

    return merged


def _by_content(group: list[int], experts: Sequence[Mapping[str, Tensor]], name: str) -> list[list[int]]:
    """The experts of a group that are equal in one tensor together, in the order of its hash."""
    if len(group) == 1:
        return [group]
    hashes = {place: _hash(experts[place][name]) for place in group}
    return [[place for place in group if hashes[place] == value] for value in sorted({*hashes.values()})]


def _hash(tensor: Tensor) -> int:
    """A hash of a tensor's numbers: the same for 16-bit floats and for the same numbers in float32."""
    numbers = tensor.detach().float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor.detach()
    return xxhash.xxh3_64_intdigest(numbers.cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _require_equal(name: str, base: Tensor, experts: Sequence[Tensor], labels: Sequence[str]) -> None:
    for label, expert in zip(labels[1:], experts, strict=True):
        if not torch.equal(expert, base):
            raise DataError(
                f"{name} of {label} differs from the base and cannot be merged",
                needs="floating-point weights",
                found=str(base.dtype),
                do="make it equal in all models, or leave the expert out",
            )


def _not_finite(name: str, tensors: Sequence[Tensor], labels: Sequence[str]) -> DataError:
    """Who is to blame for a merged tensor with NaN or infinity."""
    for label, tensor in zip(labels, tensors, strict=True):
        if not bool(tensor.isfinite().all()):
            return DataError(
                f"{name} of {label} holds numbers that are not finite", found="NaN or infinity", do="leave it out"
            )
    return DataError(
        f"{name} becomes too large for its dtype when it is merged", do="choose a smaller scale, or dtype: bfloat16"
    )
