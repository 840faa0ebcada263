"""Which linear maps of a model an adapter changes, said by their roles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pomona.anatomy import Anatomy, Block, Weight
from pomona.ground.errors import UnsupportedModel

Role = Literal["query", "key", "value", "output", "up", "gate", "down"]
"""Of an attention: query, key, value, output. Of a feed-forward: up, gate (where there is one), down."""

ATTENTION: tuple[Role, ...] = ("query", "key", "value", "output")


def targets_of(body: Anatomy, roles: Sequence[Role], method: str) -> list[Weight]:
    """The maps of every block that have one of these roles, in the order of the computation; tied ones once.

    Raises:
        UnsupportedModel: there is none, or it belongs to experts.
    """
    found = {weight.key: weight for block in body.blocks for weight in _of_block(block, roles)}
    if not found:
        raise UnsupportedModel(
            f"{method} finds nothing to adapt in {type(body.model).__name__}",
            needs=f"a linear map that is {' or '.join(roles)}",
            found="none",
            do="choose other targets",
        )
    if routed := next((weight for weight in found.values() if weight.routed), None):
        raise UnsupportedModel(
            f"{method} cannot adapt the maps of experts",
            where=routed.name,
            needs="maps that every token passes",
            found=routed.role,
            do=f"choose targets among {', '.join(ATTENTION)}",
        )
    return list(found.values())


def _of_block(block: Block, roles: Sequence[Role]) -> Iterator[Weight]:
    for role in roles:
        if role in ATTENTION:
            for attention in (block.attention, block.cross_attention):
                if attention is not None:
                    yield getattr(attention, role)
        elif (weight := getattr(block.ffn, role)) is not None:
            yield weight
