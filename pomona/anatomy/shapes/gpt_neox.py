"""Partly rotary decoder whose attention and feed-forward may be parallel; each head keeps its query, key and value."""

from __future__ import annotations

from pomona.anatomy.declaration import (
    AttentionShape,
    BlockShape,
    ByFlag,
    FeedForwardShape,
    Fused,
    HeadShape,
    Shape,
    StackShape,
)

GPT_NEOX = Shape(
    name="gpt_neox",
    model_types=("gpt_neox",),
    embedding="embed_in",
    stacks=(
        StackShape(
            blocks="layers",
            block=BlockShape(
                attention=AttentionShape(
                    query=Fused("attention.query_key_value", "query", interleaved=True),
                    key=Fused("attention.query_key_value", "key", interleaved=True),
                    value=Fused("attention.query_key_value", "value", interleaved=True),
                    output="attention.dense",
                ),
                ffn=FeedForwardShape(up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h"),
                norm_attention="input_layernorm",
                norm_ffn="post_attention_layernorm",
                placement=ByFlag("use_parallel_residual", yes="parallel", no="pre"),
                norm="layer",
            ),
            final_norm="final_layer_norm",
        ),
    ),
    head=HeadShape(path="lm_head"),
    positions="rotary",
)
