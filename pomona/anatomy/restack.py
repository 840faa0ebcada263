"""Change the number and order of blocks: all or nothing, with the configuration kept true."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from pomona.ground.errors import ConfigError, UnsupportedModel

if TYPE_CHECKING:
    from pomona.anatomy.body import Anatomy


def restack_(body: Anatomy, order: Sequence[int], stack: str | None = None) -> None:
    """Give the model the blocks `order[0], order[1], ...` of its present stack.

    A block that is named several times is copied (no storage is shared); one that is not named is removed. Indices
    within the blocks, the number of blocks and every per-block list in the configuration follow, so that the saved
    folder loads as it is. If anything is refused, nothing was changed.

    Args:
        order: indices into the present blocks, at least one.
        stack: name of the stack; needed when the model has several.
    Raises:
        ConfigError: an empty order or an index out of range.
        UnsupportedModel: the blocks of this model cannot change places.
    """
    wanted = [int(index) for index in order]
    declared = body.shape.stacks[0] if stack is None else next((s for s in body.shape.stacks if s.name == stack), None)
    if declared is None or (stack is None and len(body.stacks) > 1):
        names = ", ".join(s.name for s in body.stacks)
        raise ConfigError(f"restack_ needs the name of one stack, not {stack!r}", needs=f"one of {names}")
    chosen = next(s for s in body.stacks if s.name == declared.name)
    count = len(chosen.blocks)
    wrong = [index for index in wanted if not 0 <= index < count]
    if wrong or not wanted:
        raise ConfigError(
            "the new order of blocks is not valid", needs=f"at least one index from 0 to {count - 1}", found=str(wanted)
        )
    _refuse_fixed_depth(body, wanted, count)
    if chosen.carries and any(b.attention.bias_table is not None for b in chosen.blocks):
        raise UnsupportedModel(
            f"the blocks of {type(body.model).__name__} cannot be restacked (nothing was changed)",
            needs="blocks that are alike",
            found=f"{chosen.blocks[0].path} alone holds the position bias of its stack",
            do="choose a model without a shared position bias",
        )
    lists = _per_block_lists(body, count)

    modules: list[nn.Module] = []
    for place, index in enumerate(wanted):
        module = chosen.blocks[index].module
        modules.append(_copy(module) if index in wanted[:place] else module)

    # Nothing below can fail: the edit is made in one go.
    container = body.model.get_submodule(chosen.path)
    kept = list(container)
    container.extend(modules)
    del container[: len(kept)]
    for index, module in enumerate(modules):
        for part in module.modules():
            if isinstance(getattr(part, "layer_idx", None), int):
                part.layer_idx = index  # type: ignore[assignment]
    for name, values in lists.items():
        setattr(body.config, name, [values[index] for index in wanted])
    for name in body.shape.fields.of_blocks:
        named = getattr(body.config, name, None) or []
        setattr(body.config, name, [place for place, index in enumerate(wanted) if index in named])
    setattr(body.config, declared.count, len(wanted))
    body.refresh()


def _copy(block: nn.Module) -> nn.Module:
    """A block of its own that still reads the model's configuration: settings made there later must reach it."""
    configs = [part.config for part in block.modules() if hasattr(part, "config")]
    return copy.deepcopy(block, {id(config): config for config in configs})


def _per_block_lists(body: Anatomy, count: int) -> dict[str, list[Any]]:
    """The configuration's lists with one entry per block."""
    lists = {}
    for name in body.shape.fields.per_block:
        values = getattr(body.config, name, None)
        if values is None:
            continue
        if len(values) != count:
            raise UnsupportedModel(
                f"the configuration of {type(body.model).__name__} does not fit its blocks (nothing was changed)",
                needs=f"{count} entries in {name}",
                found=str(len(values)),
                do="correct the configuration",
            )
        lists[name] = list(values)
    return lists


def _refuse_fixed_depth(body: Anatomy, order: list[int], count: int) -> None:
    """Refuse an order that moves a block when its function depends on its place."""
    if order == list(range(len(order))):
        return
    for option, free in body.shape.fields.fixed_depth:
        value = getattr(body.config, option, free)
        if value != free:
            raise UnsupportedModel(
                f"the blocks of {type(body.model).__name__} cannot change places (nothing was changed)",
                needs=f"{option} = {free}",
                found=f"{option} = {value}: a block's function depends on its index",
                do="keep the first blocks in their order, or choose a model without this option",
            )
