"""Sizes: how large every space of a model is, and how a configuration says what transformers has no field for.

A configuration of transformers has one number for the heads of all blocks, and often none for the size of a head. What
it cannot say is recorded beside its fields as plain data,

    "pomona": {"format": 1, "shape": "llama", "sizes": {"model.layers.3": {"feed_forward": 40}}}

and `apply_` gives a newly built model those sizes before its weights are loaded. No code is stored or run. What else
may stand there says `norms`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from pomona.anatomy.space import Axis, Space
from pomona.anatomy.weight import Weight
from pomona.ground.errors import DataError

if TYPE_CHECKING:
    from pomona.anatomy.block import Attention, FeedForward
    from pomona.anatomy.body import Anatomy

Sizes = dict[str, dict[str, int]]
"""Scope -> name of a space -> number of coordinates."""

RECORD = "pomona"
"""The key of a configuration that holds what its own fields cannot say."""
FORMAT, FORMAT_WITH_NORMS = 1, 2
"""Versions that know of sizes alone do not read the second, whose models they would build with other norms."""
EDITABLE = (
    *("residual", "head", "kv_head", "head_dim", "value_dim", "feed_forward", "expert"),
    *("embedding", "pooled", "vocabulary"),
)
"""Names of the spaces whose size can change. Most others are indexed from outside of the model."""


def sizes_of(body: Anatomy) -> Sizes:
    """The size of every editable space. Where heads and key-value heads are one space, both names are there."""
    found: Sizes = {}
    for space in body.spaces():
        if space.name in EDITABLE:
            found.setdefault(space.scope, {})[space.name] = space.size
    for names in found.values():
        if "head" in names:
            names.setdefault("kv_head", names["head"])
    return found


def departures(wanted: Sizes, built: Sizes) -> Sizes:
    """The entries of `wanted` that `built` does not have."""
    found: Sizes = {}
    for scope, names in wanted.items():
        own = {name: size for name, size in names.items() if built.get(scope, {}).get(name) != size}
        if own:
            found[scope] = own
    return found


def record_of(body: Anatomy, sizes: Sizes, norms: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What a configuration holds under `RECORD`: these sizes, and what it says about norms; None for neither.

    Args:
        norms: another record of norms than the present one.
    """
    norms = norms or (getattr(body.config, RECORD, None) or {}).get("norms")
    if norms is None:
        return {"format": FORMAT, "shape": body.shape.name, "sizes": sizes} if sizes else None
    return {"format": FORMAT_WITH_NORMS, "shape": body.shape.name, "sizes": sizes, "norms": dict(norms)}


def recorded(config: Any) -> Sizes:
    """The sizes that a configuration records; none for most models.

    Raises:
        DataError: the record is not of a form that this version reads.
    """
    record = getattr(config, RECORD, None)
    if record is None:
        return {}
    known = isinstance(record, dict) and record.get("format") in (FORMAT, FORMAT_WITH_NORMS)
    sizes = record.get("sizes") if known else None
    whole = isinstance(sizes, dict) and all(
        isinstance(names, dict) and all(isinstance(size, int) and size > 0 for size in names.values())
        for names in sizes.values()
    )
    if not whole:
        raise DataError(
            f"the configuration's {RECORD!r} cannot be read",
            needs=f"format {FORMAT} or {FORMAT_WITH_NORMS} with sizes: scope -> space -> number",
            found=str(record)[:200],
            do="load the model with the version of pomona that wrote it",
        )
    return dict(sizes)  # type: ignore[arg-type]


def apply_(body: Anatomy, sizes: Sizes) -> None:
    """Give a newly built model other sizes and record them: parameters without values, numbers that modules hold.

    Args:
        body: of a model whose configuration records nothing yet.
        sizes: those that differ; every space that they name must be there.
    Raises:
        DataError: a space is unknown.
    """
    wanted = sizes_of(body)
    unknown = [f"{name} of {scope!r}" for scope, names in sizes.items() for name in names if name not in EDITABLE]
    unknown += [f"{scope!r}" for scope in sizes if scope not in wanted]
    if unknown:
        raise DataError(
            "the recorded sizes do not fit the model", found=", ".join(unknown), do="restore config.json as it was"
        )
    before = {scope: dict(names) for scope, names in wanted.items()}
    for scope, names in sizes.items():
        wanted[scope].update(names)
    shapes = stored_shapes(body, wanted)
    replaced: dict[int, nn.Parameter] = {}
    for module in body.model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None or id(parameter) not in shapes:
                continue
            if id(parameter) not in replaced:
                empty = torch.empty(shapes[id(parameter)], dtype=parameter.dtype, device=parameter.device)
                replaced[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            module._parameters[name] = replaced[id(parameter)]
        _follow_parameters(module)
    for attention in body.attentions():
        _follow(attention.module, _attention_numbers(attention, before), _attention_numbers(attention, wanted))
    for block in body.blocks:
        for module in _feed_forward_modules(block.ffn):
            _follow(module, _feed_forward_numbers(block.ffn, before), _feed_forward_numbers(block.ffn, wanted))
    if size_of(body.residual, wanted) != body.residual.size:
        old, new = (dict.fromkeys(RESIDUAL_NUMBERS, size_of(body.residual, sizes)) for sizes in (before, wanted))
        for module in body.model.modules():
            _follow(module, old, new)
    scalings = [attention.scaling for attention in body.attentions()]
    setattr(body.config, RECORD, record_of(body, sizes))
    body.refresh()
    for attention, scaling in zip(body.attentions(), scalings, strict=True):
        numbers = vars(attention.module)
        for name in SCALING_NUMBERS:
            if isinstance(numbers.get(name), float) and math.isclose(numbers[name], scaling):
                numbers[name] = attention.scaling


def size_of(space: Space, sizes: Sizes) -> int:
    """The size of a space in `sizes`, or its own where they do not name it."""
    return sizes.get(space.scope, {}).get(space.name, space.size)


def axis_size(axis: Axis, sizes: Sizes) -> int:
    """The size of an axis in `sizes`."""
    return axis.size_with([size_of(space, sizes) for space in axis.spaces])


def stored_shapes(body: Anatomy, sizes: Sizes) -> dict[int, tuple[int, ...]]:
    """The stored shape that each parameter has with `sizes`, by its id, where that is another one than now."""
    views: dict[int, dict[Any, Weight]] = {}
    for part in body.parts():
        views.setdefault(id(part.parameter), {}).setdefault(part.key, part)
    shapes = {key: _stored_shape(list(own.values()), sizes) for key, own in views.items()}
    stored = {id(part.parameter): tuple(part.parameter.shape) for part in body.parts()}
    return {key: shape for key, shape in shapes.items() if shape != stored[key]}


def _stored_shape(views: list[Weight], sizes: Sizes) -> tuple[int, ...]:
    """The shape of a parameter whose parts are `views`."""
    first = views[0]
    stored = tuple(first.parameter.shape)
    if not first.axes:  # a single number
        return stored
    if first.folded:
        return _folded_shape(first, stored, sizes)
    rows = sum(axis_size(view.axes[0], sizes) - view.axes[0].size for view in views)
    if len(stored) == 1:
        return (stored[0] + rows,)
    if len(stored) == 2:
        columns = axis_size(first.axes[1], sizes)
        return (columns, stored[1] + rows) if first.transposed else (stored[0] + rows, columns)
    experts = next(space.parent for axis in first.axes for space in axis.spaces if space.parent is not None)
    count = size_of(experts, sizes)
    outputs, inputs = sum(axis_size(view.axes[0], sizes) for view in views), axis_size(first.axes[1], sizes)
    if first.beside:
        inputs //= count
    else:
        outputs //= count
    return (count, inputs, outputs) if first.transposed else (count, outputs, inputs)


def _folded_shape(weight: Weight, stored: tuple[int, ...], sizes: Sizes) -> tuple[int, ...]:
    """The shape of a convolution (outputs, inputs, kernel axes), or of a token with leading axes of size 1."""
    after = tuple(axis_size(axis, sizes) for axis in weight.axes)
    if weight.kind != "linear":
        return (1,) * (len(stored) - len(after)) + after
    return (after[0], after[1] // math.prod(stored[2:]), *stored[2:])


# ---- numbers that modules hold beside their parameters


def heads_agree(body: Anatomy) -> bool:
    """Whether the sizes of heads that attention modules keep are those that their projections are cut into."""
    for attention in body.attentions():
        own = [vars(attention.module).get(name) for name in HEAD_DIM_NUMBERS]
        if any(type(size) is int and size != attention.head_dim.size for size in own):
            return False
    return True


HEAD_DIM_NUMBERS = ("head_dim", "head_size", "attention_head_size", "key_value_proj_dim")
SCALING_NUMBERS = ("scaling", "scale")
"""Names under which attention modules keep the factor of the scores."""
RESIDUAL_NUMBERS = ("hidden_size", "hidden_dim", "embed_dim", "d_model", "model_dim")
"""Names under which modules of transformers keep the size of the residual stream."""


def _attention_numbers(attention: Attention, sizes: Sizes) -> dict[str, int]:
    """Names under which attention modules of transformers keep their sizes."""
    heads, kv_heads = size_of(attention.heads, sizes), size_of(attention.kv_heads, sizes)
    width = size_of(attention.head_dim, sizes)
    return {
        **dict.fromkeys(("num_heads", "num_attention_heads", "n_heads", "n_head"), heads),
        **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), kv_heads),
        "num_key_value_groups": heads // max(kv_heads, 1),
        **dict.fromkeys(HEAD_DIM_NUMBERS, width),
        **dict.fromkeys(("all_head_size", "inner_dim", "split_size"), heads * width),
    }


def _feed_forward_numbers(ffn: FeedForward, sizes: Sizes) -> dict[str, int]:
    """Names under which feed-forward and expert modules of transformers keep their sizes."""
    experts = 1 if ffn.experts is None else size_of(ffn.experts, sizes)
    width = size_of(ffn.features, sizes) // experts
    return {
        **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), experts),
        **dict.fromkeys(("intermediate_size", "intermediate_dim", "ffn_dim"), width),
    }


def _feed_forward_modules(ffn: FeedForward) -> Iterable[nn.Module]:
    owners = [ffn.module, ffn.up.owner, ffn.down.owner] + ([] if ffn.router is None else [ffn.router.owner])
    return {id(module): module for module in owners}.values()


def _follow(module: nn.Module, old: Mapping[str, int], new: Mapping[str, int]) -> None:
    """Set the numbers of a module that were `old` to what they are in `new`."""
    for name, value in old.items():
        if value != new[name] and type(vars(module).get(name)) is int and getattr(module, name) == value:
            setattr(module, name, new[name])


def _follow_parameters(module: nn.Module) -> None:
    """Set the sizes that torch's own modules keep to those of their parameters."""
    weight = module._parameters.get("weight")
    if weight is None:
        return
    first, last = weight.shape[0], weight.shape[-1]
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = first, last
    elif isinstance(module, Conv1D):
        module.nx, module.nf = first, last
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        module.out_channels, module.in_channels = first, weight.shape[1] * module.groups
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = first, last
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(weight.shape)
