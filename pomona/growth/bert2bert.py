"""bert2BERT: grow a trained model in width by copying its neurons and heads, then in depth by stacking.

Source: Chen et al., "bert2BERT: Towards Reusable Pretrained Language Models", ACL 2022, arXiv:2110.07143, Sec. 3.
Implements: width maps g with g(j) = j for j < d and a copy of an old coordinate for the others: one for the hidden
    features of the whole model, one for the heads and one for the feed-forward features of each block. With C(i)
    copies of coordinate i,
    function preserving initialisation (`fpi`): what writes a coordinate is copied, W'[j] = W[g(j)]; what reads it is
    divided, W'[:, j] = W[:, g(j)] / C(g(j)). A tied head stays tied: the norm before it is divided instead.
    advanced knowledge initialisation (`aki`): hidden features as before; the new heads and feed-forward features of
    block l are those of block l + 1 (queries, keys, values, gate and up by rows, output and down by columns, still
    divided by C). The last block of a stack has none above it and takes its own.
    Depth: the widened blocks are stacked cyclically up to `blocks`.
Deviations: the paper draws each g(j) with replacement. Here every old coordinate is drawn once before any is drawn a
    second time, so that at integer factors all have as many copies and norms see the statistics that they saw. Heads
    that share keys and values are copied as whole groups, gate and up together. Direct copying without division and
    stacking without width, baselines of the paper, are left out (`g-stack` stacks).
Use when: a trained model of about half the wanted size exists. `aki` (the paper's best, the default) learns faster:
    it breaks the symmetry between copies; `fpi` starts from the same loss, but twins get equal gradients until
    something (dropout, noise in the data, depth) tells them apart. Cost: the copies. The paper saves about 45% of
    the FLOPs of BERT-base and 47% of GPT-base so.
    The paper trains in two stages: for the first part of the steps (5 of 40 epochs) sub-models of the bottom 3, 6, ...
    blocks, of which only the top 3 and the head learn; then all of it. With pomona's stages: `grow` to the full width
    and the depth of a sub-model, `continue` with few steps, `grow` with g-stack to the full depth, `continue`; blocks
    below are not frozen then.
Relations: at unchanged width it is `g-stack`. `fpi` alone is Net2WiderNet for transformers.
Limits: exactness of `fpi`. Heads and feed-forward features: always, but for norms over all heads of queries or keys,
    which need an integer factor. Hidden features: at integer factors of any model; else norms take their means over
    unequal numbers of copies and the function changes (`keeps_function` of the report tells). Depth never keeps the
    function. Models whose hidden features stand fast (fixed positions added to them) grow in heads and feed-forward
    alone, several stacks in width alone. The size of a head stays, so rotary tables stay valid; where no field of a
    configuration says so, the result loads with `anatomy.load` only, which the plan says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy, Block, Space, Weight
from pomona.anatomy.architecture import build
from pomona.anatomy.following import Change, change_along, values_after
from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError
from pomona.growth.report import GrowthReport

Changes = dict[Space, Change]


class Bert2BertConfig(MethodConfig):
    """Copy neurons and heads to make a model wider, and blocks to make it deeper."""

    method: Literal["bert2bert"] = "bert2bert"
    hidden_size: PositiveInt | None = None
    """Hidden features afterwards. None: as now, or twice as many when no size at all is given."""
    num_attention_heads: PositiveInt | None = None
    """Query heads of a block afterwards, each of the present size. None: they grow as the hidden size does."""
    intermediate_size: PositiveInt | None = None
    """Feed-forward features afterwards, of each expert where there are some. None: they grow as the hidden size does.
    Where blocks differ, those of the first: the others grow in the same ratio; so do their heads."""
    blocks: PositiveInt | None = None
    """Number of blocks afterwards. None: as now."""
    mode: Literal["fpi", "aki"] = "aki"
    """`fpi` keeps the function; `aki` takes new heads and feed-forward features from the block above."""
    seed: NonNegativeInt = 0
    """Of the choice which coordinates are copied."""

    def apply_(self, model: Any) -> GrowthReport:
        """Grow `model` in place; see `bert2bert_`."""
        return bert2bert_(model, self)


def width_map(size: int, wanted: int, generator: torch.Generator) -> Tensor:
    """g, (wanted,) int64: the old coordinate of each new one; the first `size` stay, the others are drawn evenly.

    Example:
        >>> width_map(3, 6, torch.Generator().manual_seed(0)).bincount().tolist()
        [2, 2, 2]
    """
    rounds = [torch.randperm(size, generator=generator) for _ in range(0, wanted - size, size)]
    return torch.cat([torch.arange(size), *rounds])[:wanted]


def bert2bert_(model: Any, config: Bert2BertConfig | None = None) -> GrowthReport:
    """Grow a model in place, in width and then in depth. Configuration and saved folder follow.

    The optimizer of the small model does not fit the grown one: build a new one.

    Args:
        model: a transformers model, or its anatomy, which is then brought up to date.
        config: sizes and mode; twice the width, `aki`, by default.
    Raises:
        ConfigError: a size is smaller than now, does not fit the others, or all are as now.
        UnsupportedModel: hidden features that stand fast, or blocks that cannot be restacked. Nothing was changed then.
    """
    start = time.perf_counter()
    config = config or Bert2BertConfig()
    body = model if isinstance(model, Anatomy) else anatomy.of(model)
    before, parameters = len(body.blocks), body.parameter_count()
    order = [index % before for index in range(_not_below(config.blocks, before, "blocks"))]
    if len(order) > before:
        body.require("single_stack", method=f"{config.method} in depth")
        anatomy.of(build(type(body.model), body.model.config), body.shape).restack_(order)  # refuses, if at all, here
    changes = _changes(body, config)
    above = list(_above(body)) if config.mode == "aki" else []
    exact = len(order) == before and _exact(body, changes, above)
    with anatomy.touched(body, config.method):
        if changes:
            with body.edit() as edit:
                for space, change in changes.items():
                    edit.expand(space, change.source, _shares(change))
                for block, source in above:
                    for weight, values in _advanced(block, source, changes):
                        edit.write(weight, values)
        if len(order) > before:
            body.restack_(order)
    return GrowthReport(
        order=tuple(order),
        blocks_before=before,
        blocks_after=len(body.blocks),
        parameters_before=parameters,
        parameters_after=body.parameter_count(),
        seconds=time.perf_counter() - start,
        keeps_function=exact,
    )


# ---- width


def _changes(body: Anatomy, config: Bert2BertConfig) -> Changes:
    """The width map of every space that grows, with the shares of its readers."""
    sizes = (config.hidden_size, config.num_attention_heads, config.intermediate_size, config.blocks)
    hidden = 2 * body.hidden_size if sizes == (None, None, None, None) else config.hidden_size
    growth = Fraction(_not_below(hidden, body.hidden_size, "hidden_size"), body.hidden_size)
    first = body.blocks[0]
    heads, features = (
        growth if wanted is None else Fraction(_not_below(wanted, present, name), present)
        for name, wanted, present in (
            ("num_attention_heads", config.num_attention_heads, first.attention.num_heads),
            ("intermediate_size", config.intermediate_size, first.ffn.width),
        )
    )
    factors: dict[Space, tuple[Fraction, str]] = {}
    for block in body.blocks:
        for role, space in _spaces(block).items():
            attended = role.endswith("attention")
            name = "num_attention_heads" if attended else "intermediate_size"
            factors.setdefault(space, (heads if attended else features, name))
    generator = torch.Generator().manual_seed(config.seed)
    changes: Changes = {}
    if growth > 1:
        body.require("free_residual", method=f"{config.method} in hidden features")
        hidden_map = _grown(body.residual, growth, "hidden_size", generator)
        pooled = [space for space in body.spaces() if space.name == "pooled" and space.size == body.hidden_size]
        changes |= dict.fromkeys([body.residual, *pooled], hidden_map)
    for space, (factor, name) in factors.items():
        if factor > 1:
            changes[space] = _grown(space, factor, name, generator)
    return changes


def _not_below(wanted: int | None, present: int, name: str) -> int:
    """The wanted size, the present one for None; refused when it is smaller."""
    if wanted is not None and wanted < present:
        raise ConfigError(
            "bert2bert only grows (nothing was changed)",
            where=name,
            needs=f"at least the present {present}",
            found=str(wanted),
            do="choose a larger number, or leave it out",
        )
    return present if wanted is None else wanted


def _spaces(block: Block) -> dict[str, Space]:
    """What grows within a block, by role: key-value heads (their query heads follow), feed-forward features."""
    found = {"attention": block.attention.kv_heads, "ffn": block.ffn.features}
    if block.cross_attention is not None:
        found["cross_attention"] = block.cross_attention.kv_heads
    if block.ffn.shared is not None:
        found["ffn.shared"] = block.ffn.shared.features
    return found


def _grown(space: Space, factor: Fraction, name: str, generator: torch.Generator) -> Change:
    """The width map of a space, with 1 / C(g(j)) for what reads it; the features of each expert grow alike."""
    runs = 1 if space.parent is None else space.parent.size
    size = space.size // runs
    wanted = size * factor
    if wanted.denominator != 1:
        raise ConfigError(
            f"{space} cannot grow by the factor {float(factor):.4g} (nothing was changed)",
            where=name,
            needs=f"a size at which {size} becomes a whole number",
            found=f"{float(wanted):.4g}",
            do=f"name {name}; heads that share keys and values grow as whole groups",
        )
    maps = [run * size + width_map(size, int(wanted), generator) for run in range(runs)]
    source = torch.cat(maps)
    return Change(source, 1.0 / torch.bincount(source)[source].double())


def _shares(change: Change) -> Tensor:
    assert change.factor is not None
    return change.factor


def _exact(body: Anatomy, changes: Changes, above: list[tuple[Block, Block]]) -> bool:
    """Whether the widened model computes the same: every norm averages over equally many copies of each coordinate,
    and no block takes anything from another."""
    norms = [norm for attention in body.attentions() for norm in attention.norms()]
    over_heads = {space for space in changes if any(norm.gain.axes[0].has(space) for norm in norms)}
    averaged = {body.residual, *over_heads} & changes.keys()
    even = all(len(set(_shares(changes[space]).tolist())) == 1 for space in averaged)
    return even and not any(space in changes for block, _ in above for space in _spaces(block).values())


# ---- advanced knowledge


def _above(body: Anatomy) -> Iterator[tuple[Block, Block]]:
    """Every block with the one above it in its stack."""
    for stack in body.stacks:
        yield from zip(stack.blocks, stack.blocks[1:], strict=False)


def _advanced(block: Block, above: Block, changes: Changes) -> Iterator[tuple[Weight, Tensor]]:
    """The weights of a block whose new heads and features are those of the block above, with their values.

    Where the two blocks are of different kinds (experts in one of them), a block keeps its own copies.
    """
    theirs = {part.role: part for part in above.parts()}
    spaces = _spaces(above)
    pairs = {own: spaces[role] for role, own in _spaces(block).items() if own in changes and role in spaces}
    moved: Mapping[Space, Change] = {**changes, **{their: changes[own] for own, their in pairs.items()}}
    for part in block.parts():
        source = theirs.get(part.role)
        if source is None or source.shape != part.shape:
            continue
        for dim, axis in enumerate(part.axes):
            grown = next((space for space in pairs if axis.has(space)), None)
            if grown is None:
                continue
            new = change_along(axis, {grown: Change(changes[grown].source, _is_new(grown, changes[grown]))})
            assert new is not None and new.factor is not None
            chosen = new.factor.bool().view([-1 if each == dim else 1 for each in range(len(part.axes))])
            own, other = values_after(part, changes, {}), values_after(source, moved, {})
            yield part, torch.where(chosen.to(own.device), other.to(own.device), own)


def _is_new(space: Space, change: Change) -> Tensor:
    """(new size,) 1 where a coordinate was not there before, else 0."""
    runs = 1 if space.parent is None else space.parent.size
    places = torch.arange(len(change.source) // runs)
    return (places >= space.size // runs).double().repeat(runs)
