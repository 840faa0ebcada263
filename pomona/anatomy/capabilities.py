"""Capabilities: what methods may ask of a model, and refusals that say what is missing and what would work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pomona.anatomy.declaration import ByFlag, ExpertsShape, FeedForwardShape, HeadShape, Placement, Shape
from pomona.anatomy.registry import known_shapes
from pomona.ground.errors import ConfigError, UnsupportedModel, did_you_mean

if TYPE_CHECKING:
    from pomona.anatomy.body import Anatomy

MEANING = {
    "pre_norm": "norms before attention and before feed-forward, one after the other, and nowhere else",
    "post_norm": "norms after each residual sum",
    "sandwich_norm": "norms before and after attention and feed-forward",
    "output_norm": "norms after attention and feed-forward, before they are added",
    "parallel": "attention and feed-forward that read the same residual stream",
    "residual_stream": "blocks that add to a residual stream which is never normalized itself",
    "rmsnorm": "norms without mean removal (RMSNorm)",
    "layernorm": "norms with mean removal (LayerNorm)",
    "gated_ffn": "a feed-forward with a gate",
    "plain_ffn": "a feed-forward without a gate",
    "layer_scale": "a learned factor for each feature that a block adds",
    "experts": "feed-forwards among which a router chooses",
    "dense_ffn": "feed-forwards that every token goes through",
    "rotary": "rotary positions",
    "learned_positions": "a table of learned positions",
    "relative_bias": "a learned bias of the attention scores by relative position",
    "disentangled": "attention scores between tokens and learned relative positions",
    "causal": "attention to earlier positions only",
    "bidirectional": "attention to all positions",
    "grouped_query": "fewer key-value heads than query heads",
    "direct_attention": "queries, keys and values that are each one map of the hidden states",
    "latent_attention": "keys and values that are made of a latent, which generation keeps instead of them",
    "query_key_norm": "norms of queries and keys",
    "separate_heads": "heads that no norm takes together",
    "sliding_window": "attention to a window of positions in some block",
    "softcap": "scores that a tanh keeps below a limit",
    "linear_bias": "biases in linear maps",
    "fused_projections": "several linear maps stored in one parameter",
    "blockwise": "blocks that follow one another with nothing in between",
    "free_residual": "hidden features that can change places",
    "token_embedding": "a table of token embeddings",
    "vision": "images or videos as inputs",
    "audio": "sounds as inputs",
    "class_token": "a learned token before those made of the input",
    "head": "a head that maps hidden states to logits over the vocabulary",
    "classifier": "a head that maps hidden states to logits over labels",
    "linear_head": "a head that is one linear map of the hidden states",
    "tied_head": "a head that shares the token embedding's parameter",
    "untied_head": "a head with a parameter of its own",
    "cross_attention": "attention from decoder to encoder",
    "encoder_decoder": "an encoder and a decoder",
    "single_stack": "one stack of blocks",
}
"""Every capability and what it means, in the words of a refusal."""


def capabilities_of(body: Anatomy) -> frozenset[str]:
    """The capabilities of a bound model, derived from its parts."""
    blocks, stacks = body.blocks, body.stacks
    head, embedding = body.head, body.embedding
    over_words = head is not None and head.axes[0].spaces == (body.vocabulary,)
    tied = head is not None and embedding is not None and head.parameter is embedding.parameter
    modalities = {given.modality for given in body.shape.inputs}
    facts = {
        "pre_norm": all(block.placement == "pre" for block in blocks),
        "post_norm": all(block.placement == "post" for block in blocks),
        "sandwich_norm": all(block.placement == "sandwich" for block in blocks),
        "output_norm": all(block.placement == "output" for block in blocks),
        "parallel": all(block.placement == "parallel" for block in blocks),
        "residual_stream": all(block.placement != "post" for block in blocks),
        "rmsnorm": all(norm.kind == "rms" for block in blocks for norm in block.norms()),
        "layernorm": all(norm.kind == "layer" for block in blocks for norm in block.norms()),
        "gated_ffn": all(block.ffn.gate is not None for block in blocks),
        "plain_ffn": all(block.ffn.gate is None for block in blocks),
        "layer_scale": any(block.scale_ffn is not None for block in blocks),
        "experts": any(block.ffn.experts is not None for block in blocks),
        "dense_ffn": all(block.ffn.experts is None for block in blocks),
        "rotary": body.shape.positions == "rotary",
        "learned_positions": body.positions is not None,
        "relative_bias": any(stack.bias_table is not None for stack in stacks)
        or any(block.attention.bias_table is not None for block in blocks),
        "disentangled": any(block.attention.position_kinds for block in blocks),
        "causal": len(stacks) == 1 and stacks[0].causal,
        "bidirectional": len(stacks) == 1 and not stacks[0].causal,
        "grouped_query": any(b.attention.num_kv_heads < b.attention.num_heads for b in blocks),
        "direct_attention": not any(attention.latents() for attention in body.attentions()),
        "latent_attention": all(attention.key_value_latent is not None for attention in body.attentions()),
        "query_key_norm": any(block.attention.query_norm is not None for block in blocks),
        "separate_heads": not any(
            norm.gain.axes[0].has(attention.heads) for attention in body.attentions() for norm in attention.norms()
        ),
        "sliding_window": any(block.attention.window is not None for block in blocks),
        "softcap": any(block.attention.softcap is not None for block in blocks),
        "linear_bias": any(weight.bias is not None for block in blocks for weight in block.wholes()),
        "fused_projections": any(weight.fused for block in blocks for weight in block.wholes()),
        "blockwise": not any(stack.interrupted for stack in stacks),
        "free_residual": not any(fast.space == "residual" for fast in body.fast),
        "token_embedding": embedding is not None,
        "vision": "vision" in modalities,
        "audio": "audio" in modalities,
        "class_token": "class_token" in body.around,
        "head": over_words,
        "classifier": head is not None and not over_words,
        "linear_head": over_words and not body.has_transform,
        "tied_head": over_words and tied,
        "untied_head": over_words and not tied,
        "cross_attention": any(block.cross_attention is not None for block in blocks),
        "encoder_decoder": len(stacks) > 1,
        "single_stack": len(stacks) == 1,
    }
    return frozenset(name for name, holds in facts.items() if holds)


def require(body: Anatomy, capabilities: Sequence[str], method: str) -> None:
    """Raise `UnsupportedModel` unless `body` has every one of `capabilities`; nothing has been changed then."""
    for name in capabilities:
        if name not in MEANING:
            raise ConfigError(f"there is no capability {name!r}", do=did_you_mean(name, MEANING))
    missing = [name for name in capabilities if name not in body.capabilities]
    if not missing:
        return
    fitting = [s.name for s in known_shapes().values() if all(_may_have(s, name) for name in capabilities)]
    raise UnsupportedModel(
        f"{method} cannot run on {type(body.model).__name__} (nothing was changed)",
        where=_evidence(body, missing[0]),
        needs="; ".join(f"{MEANING[name]} ({name})" for name in missing),
        found=", ".join(sorted(body.capabilities)),
        do=f"choose a model of the shape {' or '.join(fitting)}" if fitting else "choose another method",
    )


def _evidence(body: Anatomy, missing: str) -> str:
    """The module in which a missing capability was looked for."""
    first = body.blocks[0]
    norm = (first.norm_attention or first.norms()[0]).gain.name
    places = {
        **dict.fromkeys(("pre_norm", "post_norm", "rmsnorm", "layernorm", "residual_stream"), norm),
        "gated_ffn": first.ffn.up.name,
        "plain_ffn": first.ffn.up.name,
        "dense_ffn": first.ffn.up.name,
    }
    if missing.endswith("head") and body.head is not None:
        return body.head.name
    return places.get(missing, first.path if body.blocks else type(body.model).__name__)


def _may_have(shape: Shape, capability: str) -> bool:
    """Whether a model of this shape can have the capability, as far as the declaration alone tells."""
    blocks = [stack.block for stack in shape.stacks]
    ffns = [f for block in blocks for f in (block.ffn if isinstance(block.ffn, tuple) else (block.ffn,))]
    single = len(shape.stacks) == 1
    causal = shape.stacks[0].causal
    over_words = shape.head is not None and shape.head.outputs == "vocabulary"

    def placed(*names: Placement) -> bool:
        chosen = [(p.yes, p.no) if isinstance(p, ByFlag) else (p,) for p in (block.placement for block in blocks)]
        return all(set(names) & set(choices) for choices in chosen)

    known = {
        "pre_norm": placed("pre"),
        "post_norm": placed("post"),
        "sandwich_norm": placed("sandwich"),
        "output_norm": placed("output"),
        "parallel": placed("parallel"),
        "residual_stream": placed("pre", "sandwich", "output", "parallel"),
        "rmsnorm": all(block.norm == "rms" for block in blocks),
        "layernorm": all(block.norm == "layer" for block in blocks),
        "gated_ffn": all(ffn.gate is not None for ffn in ffns),
        "plain_ffn": all(ffn.gate is None or str(ffn.gate).endswith("?") for ffn in ffns),
        "experts": any(isinstance(ffn, ExpertsShape) for ffn in ffns),
        "dense_ffn": any(isinstance(ffn, FeedForwardShape) for ffn in ffns),
        "rotary": shape.positions == "rotary",
        "learned_positions": shape.positions == "learned",
        "relative_bias": any(stack.bias_table or stack.block.attention.bias_table for stack in shape.stacks),
        "disentangled": shape.positions == "disentangled",
        "layer_scale": any(block.scale_ffn is not None for block in blocks),
        "blockwise": all(stack.between is None for stack in shape.stacks),
        "free_residual": not any(fast.space == "residual" for fast in shape.fast),
        "token_embedding": shape.embedding is not None,
        "vision": any(given.modality == "vision" for given in shape.inputs),
        "audio": any(given.modality == "audio" for given in shape.inputs),
        "class_token": any(part.role == "class_token" for part in shape.around),
        "causal": single and causal is not False,
        "bidirectional": single and causal is not True,
        "direct_attention": all(block.attention.key_value_latent is None for block in blocks),
        "latent_attention": all(block.attention.key_value_latent is not None for block in blocks),
        "query_key_norm": all(block.attention.query_norm is not None for block in blocks),
        "softcap": any(block.attention.softcap is not None for block in blocks),
        "head": over_words,
        "linear_head": over_words and shape.head == HeadShape(path=shape.head.path if shape.head else ""),
        "cross_attention": any(block.cross_attention is not None for block in blocks),
        "encoder_decoder": not single,
        "single_stack": single,
    }
    return known.get(capability, True)
