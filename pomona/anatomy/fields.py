"""Fields: how far the fields of a configuration can express the sizes that a model shall have.

Nothing is believed: a configuration is built, and what it builds is compared with what is wanted. Fields that
transformers refuses, or that change more than they should, are left alone; what remains is recorded (see `sizes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pomona.anatomy import norms as norming
from pomona.anatomy import sizes as sizing
from pomona.anatomy.architecture import build, reread, tower_of
from pomona.anatomy.sizes import Sizes
from pomona.ground.errors import PomonaError, UnsupportedModel

if TYPE_CHECKING:
    from pomona.anatomy.body import Anatomy

REFUSALS = (ValueError, TypeError, RuntimeError, ZeroDivisionError, AssertionError, PomonaError)
"""What building a configuration that makes no sense raises in transformers, and in finding its parts."""


def expressed(body: Anatomy, wanted: Sizes, others: Mapping[str, Any]) -> tuple[Anatomy, dict[str, Any]]:
    """An architecture of the wanted sizes (without values), and the configuration's fields that change for it.

    Args:
        wanted: every editable space of the model.
        others: fields that change with the sizes.
    Returns:
        The anatomy of the built model, whose configuration records what no field expresses, and the changed fields.
    Raises:
        UnsupportedModel: a model of these sizes cannot be built.
    """
    uniform = {name: values.pop() for name, values in _said(body, wanted).items() if len(values) == 1}
    if norming.recorded(body.config) is not None:
        # Another width must not fit the norms that transformers would build: it is recorded, which nothing else reads.
        uniform.pop(body.shape.fields.hidden_size)
    every = [body.shape.fields, *(stack.fields for stack in body.shape.stacks if stack.fields is not None)]
    heads = {name for fields in every for name in (fields.heads, fields.kv_heads, fields.head_dim)}
    known = {name for name in uniform if hasattr(body.config, name)}
    best: tuple[tuple[Any, ...], dict[str, Any], Sizes] | None = None
    # Some models read a size of heads that their configuration does not declare: that is tried last.
    for allowed in (known, known - heads, set(), known | {fields.head_dim for fields in every}):
        found = _settled(body, {name: uniform[name] for name in uniform if name in allowed}, wanted, others)
        if found is not None and (best is None or _cost(body, found[1]) < best[0]):
            best = (_cost(body, found[1]), *found)
        if found is not None and (not found[1] or (allowed == known and found[0] == dict(others))):
            break  # nothing is missing, or no field would help
    _, changed, missing = best or ((), dict(others), wanted)
    return _sized(body, changed, missing, wanted), changed


def _cost(body: Anatomy, missing: Sizes) -> tuple[Any, ...]:
    """How bad it is to record these sizes. Frequencies of rotary positions follow fields only, and so does much that
    reads the size of hidden states."""
    head_dim = any("head_dim" in own for own in missing.values())
    turned = any(attention.rotary for attention in body.attentions())
    return (turned and head_dim, "residual" in missing.get("", {}), head_dim, sum(map(len, missing.values())))


def _settled(
    body: Anatomy, uniform: dict[str, Any], wanted: Sizes, others: Mapping[str, Any]
) -> tuple[dict[str, Any], Sizes] | None:
    """The fields to set, of those in `uniform`, and the sizes that they leave wrong; None when they are refused."""
    said = _said(body, wanted)
    fields = dict(others)
    while True:
        try:
            built = _anatomy(body, fields, {})
        except REFUSALS:
            return None
        found = sizing.sizes_of(built)
        wrong = {name for name, values in _said(body, found).items() if values != said[name]} & set(uniform)
        if wrong <= set(fields):
            return (fields, sizing.departures(wanted, found)) if sizing.heads_agree(built) else None
        fields |= {name: uniform[name] for name in wrong}


def _sized(body: Anatomy, fields: dict[str, Any], missing: Sizes, wanted: Sizes) -> Anatomy:
    """The architecture of these fields, with the missing sizes recorded."""
    try:
        built = _anatomy(body, fields, missing)
        still = sizing.departures(wanted, sizing.sizes_of(built))
    except REFUSALS as error:
        still, found = missing, str(error)
    else:
        found = f"{still}"
    if still:
        raise UnsupportedModel(
            f"{type(body.model).__name__} cannot have these sizes (nothing was changed)",
            needs="a model that can be built with them",
            found=found,
            do="choose other sizes",
        )
    return built


def _anatomy(body: Anatomy, fields: dict[str, Any], recorded: Sizes) -> Anatomy:
    """The anatomy of what a configuration with these fields and recorded sizes builds."""
    from pomona.anatomy.body import of

    tower = tower_of(body.model, body.config)
    config = reread(body.model.config, fields, tower)
    own = config if tower is None else getattr(config, tower)
    vars(own).pop(sizing.RECORD, None)
    record = sizing.record_of(body, recorded)
    if record is not None:
        setattr(own, sizing.RECORD, record)
    return of(build(type(body.model), config), body.shape)


def _said(body: Anatomy, sizes: Sizes) -> dict[str, set[int]]:
    """Configuration field -> the sizes for which it stands; several when blocks differ."""
    found: dict[str, set[int]] = {}

    def say(name: str | None, size: int) -> None:
        if name is not None:
            found.setdefault(name, set()).add(size)

    say(body.shape.fields.hidden_size, sizing.size_of(body.residual, sizes))
    if body.vocabulary is not None:
        say(body.shape.fields.vocabulary, sizing.size_of(body.vocabulary, sizes))
    for declared, stack in zip(body.shape.stacks, body.stacks, strict=True):
        fields = declared.fields or body.shape.fields
        for block in stack.blocks:
            for attention in (block.attention, block.cross_attention):
                if attention is not None:
                    kv_heads = sizes.get(attention.kv_heads.scope, {}).get("kv_head", attention.num_kv_heads)
                    say(fields.heads, sizing.size_of(attention.heads, sizes))
                    say(fields.kv_heads, kv_heads)
                    say(fields.head_dim, sizing.size_of(attention.head_dim, sizes))
            features, experts = sizing.size_of(block.ffn.features, sizes), declared.block.experts
            if block.ffn.experts is None or experts is None:
                say(fields.feed_forward, features)
            else:
                count = sizing.size_of(block.ffn.experts, sizes)
                say(experts.count, count)
                say(experts.feed_forward, features // count)
    return found
