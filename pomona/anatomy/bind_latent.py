"""Apply a declaration to one attention whose keys and values are made of a latent (multi-head latent attention).

    c, s = key_value_down(x);  keys = key(norm(c));  values = value(norm(c));  queries = query(x, or its own latent)

A head compares [key, turned s] with its query, whose last features turn too; s is one for all heads.
"""

from __future__ import annotations

from pomona.anatomy.block import Attention, Latent
from pomona.anatomy.declaration import AttentionShape, Fields, LatentShape, Storage
from pomona.anatomy.find import Finder, inputs_of, outputs_of, storage_path, tensor_of
from pomona.anatomy.space import Axis, Space
from pomona.anatomy.weight import Weight


def bind_latent(
    find: Finder, fields: Fields, declared: AttentionShape, scope: str, path: str, residual: Space, causal: bool
) -> Attention:
    """The attention of the block at `path`. Every size but the number of heads follows from the modules.

    Args:
        scope: in which its own spaces live.
        residual: space of the hidden states.
    Raises:
        UnsupportedModel: a part is absent, has another size, or scores are stretched with the context.
    """
    given = declared.key_value_latent
    assert given is not None
    _require_plain_scores(find)
    width = int(find.field(fields.head_dim))
    num_heads = outputs_of(find.need(path, storage_path(declared.query))[1]) // width
    heads = Space("head", num_heads, scope)
    rank = int(tensor_of(find.need(path, given.norm)[1]).numel())
    turned = Space("turned", outputs_of(find.need(path, given.down)[1]) - rank, scope)
    head_dim = Space("head_dim", width, scope)
    unturned = Space("unturned", width - turned.size, scope)
    value_dim = Space("value_dim", inputs_of(find.need(path, declared.output)[1]) // num_heads, scope)

    def latent(role: str, at: LatentShape, *beside: Space) -> Latent:
        features = Space("latent", int(tensor_of(find.need(path, at.norm)[1]).numel()), f"{scope}.{role}")
        norm = find.norm(f"attention.{role}_norm", path, at.norm, Axis((features,)), "rms", 0.0)
        assert norm is not None
        outputs = Axis((features, *beside), joined=True)
        return Latent(find.linear(f"attention.{role}_down", path, at.down, outputs, (residual,)), norm, features)

    key_value = latent("key_value", given, turned)
    query = declared.query_latent
    query_latent = None if query is None or find.find(path, query.down) is None else latent("query", query)
    asked = residual if query_latent is None else query_latent.features
    sizes = {"key": num_heads * unturned.size, "value": num_heads * value_dim.size}

    def for_heads(role: str, storage: Storage, made: Space, read: Space) -> Weight:
        return find.linear(f"attention.{role}", path, storage, (heads, made), (read,), sizes, periods=num_heads)

    return Attention(
        query=for_heads("query", declared.query, head_dim, asked),
        key=for_heads("key", declared.key, unturned, key_value.features),
        value=for_heads("value", declared.value, value_dim, key_value.features),
        output=find.linear("attention.output", path, declared.output, (residual,), (heads, value_dim)),
        query_norm=None,
        key_norm=None,
        query_latent=query_latent,
        key_value_latent=key_value,
        bias_table=None,
        position_query=None,
        position_key=None,
        position_kinds=0,
        module=find.need(path, declared.output.rpartition(".")[0])[1],
        causal=causal,
        window=None,
        scaling=find.factor(declared.scaling, width),
        softcap=None,
        rotary=turned.size,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        value_dim=value_dim,
    )


def _require_plain_scores(find: Finder) -> None:
    """Refuse rotary positions that stretch the scores as well (YaRN's temperature)."""
    parameters = find.field("rope_parameters", {})
    if parameters.get("rope_type", "default") != "default" and parameters.get("mscale_all_dim"):
        raise find.refusal("scores whose factor follows from the size of a head", "mscale_all_dim in rope_parameters")
