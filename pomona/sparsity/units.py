"""Units: heads and features as what can be removed together, who reads them, and how they are masked or cut.

A unit is a coordinate of a space. Masked, it is zero where linear maps read it; cut, it is gone from every weight of
its space. Both give the same outputs, unless a norm runs over the units: such spaces are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pomona.anatomy import Anatomy, Block, Edit, EditPlan, Space, Weight, replace_inputs, replace_outputs, tap_inputs
from pomona.ground.errors import UnsupportedModel

Kept = Mapping[Space, Sequence[int]]
"""Space -> the coordinates that stay, in ascending order."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A linear map that reads the units of a space.

    Args:
        weight: the map; of experts, one of them.
        units: (inputs,) int64, the unit to which each input belongs.
    """

    weight: Weight
    units: Tensor


def head_spaces(body: Anatomy, within_groups: bool = False) -> list[Space]:
    """The spaces of heads, each once.

    Args:
        within_groups: query heads, of which every key-value head keeps as many; else key-value heads, which take their
            query heads with them. The same where there are as many of both.
    """
    spaces = [attention.heads for attention in body.attentions()]
    return list(dict.fromkeys(space if within_groups else space.parent or space for space in spaces))


def feature_spaces(body: Anatomy) -> list[Space]:
    """The spaces of feed-forward features, those of all experts of a block as one, shared ones by themselves."""
    ffns = [block.ffn for block in body.blocks]
    both = [one.features for ffn in ffns for one in (ffn, ffn.shared) if one is not None]
    return list(dict.fromkeys(both))


def readers(body: Anatomy, space: Space) -> list[Reader]:
    """The maps whose inputs are units of a space, those of experts singly."""
    found = []
    for weight, dim in body.members(space):
        if weight.kind != "linear" or dim != 1 or weight.axes[1].joined:
            continue  # what joins heads reads their maps, in a pass of its own
        units = weight.axes[1].owners(space)
        if not weight.routed:
            found.append(Reader(weight, units))
            continue
        ffn = next(block.ffn for block in body.blocks if block.ffn.down.key == weight.key)
        for index, own in enumerate(units.chunk(ffn.num_experts)):
            found.append(Reader(ffn.expert(index).down, own))
    return found


def require_separate(body: Anatomy, spaces: Sequence[Space], method: str) -> None:
    """Refuse spaces over which a norm runs: without some of its inputs it would scale the others anew.

    Raises:
        UnsupportedModel: nothing was changed.
    """
    for block in body.blocks:
        for norm in block.norms():
            space = next((space for space in spaces if norm.gain.axes[0].has(space)), None)
            if space is not None:
                raise UnsupportedModel(
                    f"{method} cannot cut {space} (nothing was changed)",
                    where=norm.gain.name,
                    needs="units that reach each other only through linear maps, so that cutting equals masking",
                    found=f"a norm over {norm.gain.axes[0].name}: what stays would be scaled anew",
                    do="remove features or blocks of this model, or choose one whose norms run within each head",
                )


@contextmanager
def masked(body: Anatomy, kept: Kept) -> Iterator[None]:
    """Within the block, the model computes as if the units that are not kept were gone. No weight is touched."""
    with ExitStack() as taps:
        for space, indices in kept.items():
            stays = torch.zeros(space.size).index_fill(0, torch.as_tensor(indices), 1.0)
            for reader in readers(body, space):
                taps.enter_context(replace_inputs(reader.weight, partial(_times, stays[reader.units])))
        yield


@contextmanager
def skipped(blocks: Sequence[Block]) -> Iterator[None]:
    """Within the block, these blocks hand on what they get."""
    with ExitStack() as taps:
        for block in blocks:
            entered: list[Tensor] = []
            taps.enter_context(tap_inputs(block, entered.append))
            taps.enter_context(replace_outputs(block, partial(_instead, entered)))
        yield


def cut_(body: Anatomy, kept: Kept) -> EditPlan:
    """Remove the units that are not kept; all or nothing."""
    edit = Edit(body)
    for space, indices in kept.items():
        edit.keep(space, indices)
    return edit.apply()


def _times(factors: Tensor, values: Tensor) -> Tensor:
    return values * factors.to(values)


def _instead(entered: list[Tensor], left: Tensor) -> Tensor:
    return entered.pop()
