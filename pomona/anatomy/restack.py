"""Change the number and order of blocks: all or nothing, with the configuration kept true."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pomona.anatomy import sizes as sizing
from pomona.anatomy.architecture import build, follow_configs, follow_numbers, reread, restored_on_error, tower_of
from pomona.anatomy.sizes import Sizes
from pomona.anatomy.space import Axis
from pomona.anatomy.weight import Weight
from pomona.ground.errors import ConfigError, UnsupportedModel

if TYPE_CHECKING:
    from pomona.anatomy.block import Stack
    from pomona.anatomy.body import Anatomy


def restack_(body: Anatomy, order: Sequence[int], stack: str | None = None) -> None:
    """Give the model the blocks `order[0], order[1], ...` of its present stack.

    A block that is named several times is copied (no storage is shared); one that is not named is removed. Indices
    within the blocks, the number of blocks, every per-block list in the configuration and recorded sizes follow, so
    that the saved folder loads as it is. A table that one block holds for all of its stack (T5's position bias) stays
    at that place. If anything is refused or fails, nothing was changed.

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
    if declared.first is not None and (wanted[0] != 0 or 0 in wanted[1:]):
        raise UnsupportedModel(
            f"the blocks of {type(body.model).__name__} cannot be put in this order (nothing was changed)",
            needs="the first block in the first place, and only there",
            found=f"{wanted}: {chosen.blocks[0].path} {declared.first}",
            do="let the order begin with 0, once",
        )
    model = body.model
    fields: dict[str, Any] = {name: [v[i] for i in wanted] for name, v in _per_block_lists(body, count).items()}
    for name in body.shape.fields.of_blocks:
        if getattr(body.config, name, None):
            named = getattr(body.config, name)
            fields[name] = [place for place, index in enumerate(wanted) if index in named]
    fields[declared.count] = len(wanted)
    sizes = sizing.recorded(body.config)
    if sizes:
        fields[sizing.RECORD] = sizing.record_of(body, _moved(sizes, chosen.path, wanted))
    tower = tower_of(model, body.config)
    old, new = (build(type(model), reread(model.config, changes, tower)) for changes in ({}, fields))

    was, becomes = (built.get_submodule(chosen.path) for built in (old, new))
    tables = _shared_tables(body, chosen, [(was[index], becomes[place]) for place, index in enumerate(wanted)])

    modules: list[nn.Module] = []
    with restored_on_error(model):
        for place, index in enumerate(wanted):
            module = chosen.blocks[index].module
            modules.append(_copy(module) if index in wanted[:place] else module)
        for place, (index, module) in enumerate(zip(wanted, modules, strict=True)):
            _fit_place(module, was[index], becomes[place], tables)
        container = model.get_submodule(chosen.path)
        kept = list(container)
        container.extend(modules)
        del container[: len(kept)]
        for found in body.around.values():
            for weight in found.weights():
                _select(weight, wanted)
        follow_configs(model, old, new)
        body.refresh()


def _shared_tables(body: Anatomy, stack: Stack, moves: Sequence[tuple[nn.Module, nn.Module]]) -> dict[str, nn.Module]:
    """Path in a block -> the part that one block holds for all, and which another place shall hold.

    Args:
        moves: what each chosen block was built as, and what is built at its new place.
    """
    found: dict[str, nn.Module] = {}
    for was, becomes in moves:
        before, after = dict(was.named_modules()), dict(becomes.named_modules())
        for path in sorted(set(after) - set(before)):
            holders = [part for block in stack.blocks for name, part in block.module.named_modules() if name == path]
            if len(holders) != 1 or path in found:
                raise UnsupportedModel(
                    f"the blocks of {type(body.model).__name__} cannot change places so (nothing was changed)",
                    needs="blocks with the same parts at every place, but for one table of their stack",
                    found=f"{path}, which some places have and others do not",
                    do="keep such blocks at their places",
                )
            found[path] = holders[0]
    return found


def _fit_place(block: nn.Module, was: nn.Module, becomes: nn.Module, tables: Mapping[str, nn.Module]) -> None:
    """Make `block`, built as `was`, what is built as `becomes` at its new place: indices, and shared tables or none."""
    before, after = dict(was.named_modules()), dict(becomes.named_modules())
    for path in sorted(set(before) ^ set(after)):
        parent, _, name = path.rpartition(".")
        if path in after and parent in before:
            block.get_submodule(parent).add_module(name, tables[path])
        elif path in before and parent in after:
            delattr(block.get_submodule(parent), name)
    for path, module in block.named_modules():
        if path in before and path in after:
            follow_numbers(module, before[path], after[path])


def _moved(sizes: Sizes, path: str, order: Sequence[int]) -> Sizes:
    """Recorded sizes after the blocks at `path` have changed places."""
    found: Sizes = {}
    for scope, names in sizes.items():
        if not scope.startswith(f"{path}."):
            found[scope] = names
            continue
        index, dot, rest = scope.removeprefix(f"{path}.").partition(".")
        for place, source in enumerate(order):
            if index == str(source):
                found[f"{path}.{place}{dot}{rest}"] = names
    return found


def _select(weight: Weight, blocks: list[int]) -> None:
    """Let what holds numbers for every block hold those of `blocks`."""
    for dim, axis in enumerate(weight.axes):
        order = _order_along(axis, blocks)
        if order is not None:
            kept = weight.read().index_select(dim, order.to(weight.parameter.device))
            requires_grad = weight.parameter.requires_grad
            setattr(weight.owner, weight.attribute, nn.Parameter(kept, requires_grad=requires_grad))
            if isinstance(weight.owner, nn.Linear):
                weight.owner.in_features = kept.shape[-1]


def _order_along(axis: Axis, blocks: list[int]) -> Tensor | None:
    """The coordinates along an axis that has some for each block, when the blocks are these; None for others."""
    if axis.joined:
        ends = list(accumulate(space.size for space in axis.spaces))
        return torch.cat([torch.arange(ends[index] - axis.spaces[index].size, ends[index]) for index in blocks])
    for space in axis.spaces:
        if space.name == "layer":  # the first is what enters the first block
            return axis.indices(space, torch.tensor([0, *(index + 1 for index in blocks)]))
    return None


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
