"""Wrong declarations, made from a right one by changing one annotation at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple, get_args

from torch import nn

from pomona.anatomy import Anatomy
from pomona.anatomy.declaration import (
    AttentionShape,
    BlockShape,
    ByFlag,
    ExpertsShape,
    Factor,
    FeedForwardShape,
    Fields,
    Fused,
    Placement,
    Shape,
)

ANOTHER = "num_hidden_layers"
"""The configuration field that mutants name instead of the right one: a small number."""
POSITIONS = ("rotary", "learned", "relative_bias")
SWAPPED: dict[type, tuple[tuple[str, ...], ...]] = {
    AttentionShape: (("query", "key", "value"), ("query_norm", "key_norm"), ("position_query", "position_key")),
    FeedForwardShape: (("up", "gate"),),
    ExpertsShape: (("up", "gate"),),
    BlockShape: (("norm_attention", "norm_ffn", "norm_attention_out", "norm_ffn_out", "norm_cross"),),
}
"""Annotations that may be mistaken for one another."""
NAMES_OF_FIELDS = ("softcap", "active", "scaling_by_depth", "feed_forward")
"""Annotations outside of `Fields` that name a configuration field."""
NO_ANNOTATIONS = ("name", "model_types", "when", "count", "body", "beside", "around", "inputs", "classifiers", "fast")
"""What does not describe blocks, their stack, embedding and head."""


class Mutant(NamedTuple):
    """A wrong declaration.

    Args:
        change: what was changed.
        shape: the declaration.
        stated: the right declaration says something of its own there, not the default.
    """

    change: str
    shape: Any
    stated: bool


def mutants(shape: Shape) -> Iterator[Mutant]:
    """Every declaration that differs from `shape` in one annotation."""
    yield from _of(shape)


def _of(node: Any) -> Iterator[Mutant]:
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        stated = value != (field.default_factory() if callable(field.default_factory) else field.default)
        if field.name in NO_ANNOTATIONS:
            continue
        for change, other in _values(node, field, value):
            yield Mutant(f"{field.name}{change}", dataclasses.replace(node, **{field.name: other}), stated)
        for place, child in _children(value):
            for change, other, deep in _of(child):
                whole = other if place is None else (*value[:place], other, *value[place + 1 :])
                at = "" if place is None else f"[{place}]"
                yield Mutant(f"{field.name}{at}.{change}", dataclasses.replace(node, **{field.name: whole}), deep)
    needed = {field.name for field in dataclasses.fields(node) if field.default is dataclasses.MISSING}
    for names in SWAPPED.get(type(node), ()):
        for a, b in combinations(names, 2):
            lost = None in (getattr(node, a), getattr(node, b)) and needed & {a, b}
            if getattr(node, a) != getattr(node, b) and not lost:
                swapped = dataclasses.replace(node, **{a: getattr(node, b), b: getattr(node, a)})
                yield Mutant(f"{a} and {b} swapped", swapped, True)


def _children(value: Any) -> Iterator[tuple[int | None, Any]]:
    """Declarations within a declaration, with their places in a tuple."""
    if isinstance(value, tuple):
        yield from ((place, each) for place, each in enumerate(value) if dataclasses.is_dataclass(each))
    elif dataclasses.is_dataclass(value) and not isinstance(value, Factor | Fused | ByFlag):
        yield None, value


def _values(node: Any, field: dataclasses.Field[Any], value: Any) -> Iterator[tuple[str, Any]]:
    """Other values of one annotation, each with its name."""
    if value is not None and (field.default is None or (isinstance(node, Fields) and "None" in str(field.type))):
        yield " dropped", None
    if isinstance(value, ByFlag):
        yield " turned", ByFlag(value.flag, value.no, value.yes)
    elif field.name == "placement":
        yield from ((f" = {other}", other) for other in get_args(Placement) if other != value)
    elif field.name == "norm":
        yield " = the other", "layer" if value == "rms" else "rms"
    elif field.name == "positions" and isinstance(node, Shape) and value in POSITIONS:
        yield from ((f" = {other}", other) for other in POSITIONS if other != value)
    elif field.name == "causal":
        yield from ((f" = {other}", other) for other in (True, False) if other != value)
    elif isinstance(value, float):
        yield f" = {1.0 - value}", 1.0 - value
    elif isinstance(value, Factor):
        yield " = 1", Factor(value.of, 0.0)
        yield " inverted", Factor(value.of, -value.power, value.when)
    elif isinstance(value, Fused):
        yield " in another order", dataclasses.replace(value, parts=(*value.parts[1:], value.parts[0]))
        if "query" in value.parts:
            yield " laid otherwise", dataclasses.replace(value, interleaved=not value.interleaved)
    elif isinstance(value, tuple) and field.default == ():
        yield from ((f"[{place}] dropped", value[:place] + value[place + 1 :]) for place in range(len(value)))
    elif isinstance(value, tuple) and isinstance(node, Fields):
        yield " dropped", ()
    elif isinstance(value, str) and (field.name in NAMES_OF_FIELDS or isinstance(node, Fields)):
        yield " = another field", ANOTHER


def signature(node: Any) -> Any:
    """What an anatomy says, in a form that can be compared with that of another anatomy of the same model."""
    if isinstance(node, Anatomy):
        own = {name: value for name, value in vars(node).items() if name not in ("model", "shape", "_find", "_body")}
        fields = node.shape.fields
        lists = [name for name in fields.per_block + fields.of_blocks if getattr(node.config, name, None)]
        experts = [stack.block.experts for stack in node.shape.stacks]
        sized = [fields.heads, fields.kv_heads, fields.head_dim]
        sized += [fields.feed_forward] if any(block.ffn.experts is None for block in node.blocks) else []
        sized += [one.feed_forward for one in experts if one is not None]
        own_fields = [stack.fields for stack in node.shape.stacks if stack.fields is not None]
        sized += [name for each in own_fields for name in (each.heads, each.kv_heads, each.head_dim, each.feed_forward)]
        own |= {
            "lists": lists,
            "fixed_depth": fields.fixed_depth,
            "max_positions": node.max_positions,
            "positions": node.shape.positions,
            "first": [stack.first for stack in node.shape.stacks],
            "sized": [getattr(node.config, name, None) for name in sized],
        }
        return signature(own)
    if isinstance(node, dict):
        return {key: signature(value) for key, value in node.items()}
    if isinstance(node, nn.Module):
        return id(node)
    if dataclasses.is_dataclass(node):
        return tuple(signature(getattr(node, field.name)) for field in dataclasses.fields(node))
    if isinstance(node, list | tuple):
        return tuple(signature(each) for each in node)
    return node
