"""Encoder and decoder with learned positions, LayerNorm after each residual sum (bart) or before each part (mbart)."""

from __future__ import annotations

from dataclasses import replace

from pomona.anatomy.declaration import (
    AttentionShape,
    BlockShape,
    Factor,
    FeedForwardShape,
    Fields,
    HeadShape,
    Shape,
    StackShape,
)
from pomona.anatomy.surroundings import linear, table


def _attention(path: str) -> AttentionShape:
    return AttentionShape(
        query=f"{path}.q_proj", key=f"{path}.k_proj", value=f"{path}.v_proj", output=f"{path}.out_proj"
    )


def _fields(name: str) -> Fields:
    return Fields(hidden_size="d_model", heads=f"{name}_attention_heads", feed_forward=f"{name}_ffn_dim", window=None)


def _stack(name: str, block: BlockShape, final_norm: str | None = None) -> StackShape:
    return StackShape(
        name=name,
        blocks=f"{name}.layers",
        block=block,
        positions=f"{name}.embed_positions",
        first_position=2,
        embedding_norm=f"{name}.layernorm_embedding",
        final_norm=final_norm,
        causal=name == "decoder",
        count=f"{name}_layers",
        fields=_fields("decoder") if name == "decoder" else None,
    )


ENCODER = BlockShape(
    attention=_attention("self_attn"),
    ffn=FeedForwardShape(up="fc1", down="fc2"),
    norm_attention="self_attn_layer_norm",
    norm_ffn="final_layer_norm",
    placement="post",
    norm="layer",
)
DECODER = replace(ENCODER, cross_attention=_attention("encoder_attn"), norm_cross="encoder_attn_layer_norm")

BART = Shape(
    name="bart",
    model_types=("bart",),
    embedding="shared",
    embedding_scale=Factor("hidden_size", 0.5, when="scale_embedding"),
    stacks=(_stack("encoder", ENCODER), _stack("decoder", DECODER)),
    around=(
        table("encoder_embedding", "encoder.embed_tokens", "vocabulary"),
        table("decoder_embedding", "decoder.embed_tokens", "vocabulary"),
        linear("classifier.dense", "classification_head.dense?", "pooled", "residual", per="sequence"),
    ),
    head=HeadShape(path="lm_head", added="final_logits_bias"),
    classifiers=(
        HeadShape(path="classification_head.out_proj", outputs="label", features="pooled", pool=None),
        *Shape.classifiers,
    ),
    positions="learned",
    fields=_fields("encoder"),
)

MBART = replace(
    BART,
    name="mbart",
    model_types=("mbart",),
    stacks=(
        _stack("encoder", replace(ENCODER, placement="pre"), "encoder.layer_norm"),
        _stack("decoder", replace(DECODER, placement="pre"), "decoder.layer_norm"),
    ),
)
