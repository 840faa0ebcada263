"""Linear layers that read the same input, computed as one matrix product: on a processor it is faster than several.

Query, key and value of an attention, gate and up of a feed-forward. The first of them to be called computes all; the
others hand out what is theirs, or compute it alone when they are called with something else. Weights, gradients, names
and hooks stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from pomona.anatomy import Anatomy, Block


class _Leader(nn.Linear):
    """Computes the maps of its followers together with its own."""

    followers: tuple[_Follower, ...]

    def forward(self, inputs: Tensor) -> Tensor:
        together = (self, *self.followers)
        weight = torch.cat([linear.weight for linear in together])
        bias = None if self.bias is None else torch.cat([linear.bias for linear in together])
        outputs = functional.linear(inputs, weight, bias)
        parts = torch.split(outputs, [linear.out_features for linear in together], -1)
        for follower, part in zip(self.followers, parts[1:], strict=True):
            follower.made = (inputs, part)
        return parts[0]


class _Follower(nn.Linear):
    """Hands out what its leader computed from the same input."""

    made: tuple[Tensor, Tensor] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        made, self.made = self.made, None
        if made is not None and made[0] is inputs:
            return made[1]
        return super().forward(inputs)


@contextmanager
def joined_maps(body: Anatomy) -> Iterator[None]:
    """Within the block, the linear layers of the model that share an input compute together.

    Only plain `nn.Linear` layers that hold one map each take part; where a model stores them fused, or wraps them,
    nothing changes.
    """
    groups = [group for block in body.blocks for group in _same_input(block)]
    for leader, *followers in groups:
        # The class changes, not the instance's `forward`: compiled code is then shared by all blocks.
        leader.__class__ = _Leader
        for follower in followers:
            follower.__class__ = _Follower
        vars(leader)["followers"] = tuple(followers)  # past `nn.Module`, which would make them its children
    try:
        yield
    finally:
        for group in groups:
            for linear in group:
                vars(linear).pop("followers", None)
                vars(linear).pop("made", None)
                linear.__class__ = nn.Linear


def _same_input(block: Block) -> Iterator[Sequence[nn.Linear]]:
    """The groups of layers of a block that read the same input, in the order in which they are called."""
    attention = block.attention
    candidates = [attention.readers()]
    ffn = block.ffn
    if ffn.gate is not None:
        candidates.append([ffn.gate, ffn.up])
    for weights in candidates:
        owners = [weight.owner for weight in weights]
        linears = [owner for owner in owners if type(owner) is nn.Linear]
        if len({id(owner) for owner in linears}) == len(weights) and len({o.bias is None for o in linears}) == 1:
            yield linears
