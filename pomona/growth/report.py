"""What a growth method tells of its work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GrowthReport:
    """What growth did.

    Args:
        order: source block of each new block.
        blocks_before, blocks_after: of the stack; of all stacks where a method leaves their number as it is.
        parameters_before, parameters_after: of the whole model.
        seconds: it took.
        keeps_function: the grown model computes what the model computed, up to rounding.
    """

    order: tuple[int, ...]
    blocks_before: int
    blocks_after: int
    parameters_before: int
    parameters_after: int
    seconds: float
    keeps_function: bool = False
