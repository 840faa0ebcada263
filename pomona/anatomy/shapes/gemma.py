"""Rotary decoder with RMSNorm before each part, whose gains are stored less one, and scaled embeddings."""

from __future__ import annotations

from pomona.anatomy.declaration import (
    AttentionShape,
    BlockShape,
    Factor,
    FeedForwardShape,
    HeadShape,
    Shape,
    StackShape,
)

GEMMA = Shape(
    name="gemma",
    model_types=("gemma",),
    embedding="embed_tokens",
    embedding_scale=Factor("hidden_size", 0.5),
    stacks=(
        StackShape(
            blocks="layers",
            block=BlockShape(
                attention=AttentionShape(
                    query="self_attn.q_proj",
                    key="self_attn.k_proj",
                    value="self_attn.v_proj",
                    output="self_attn.o_proj",
                ),
                ffn=FeedForwardShape(up="mlp.up_proj", gate="mlp.gate_proj", down="mlp.down_proj"),
                norm_attention="input_layernorm",
                norm_ffn="post_attention_layernorm",
                norm_offset=1.0,
            ),
            final_norm="norm",
        ),
    ),
    head=HeadShape(path="lm_head"),
    positions="rotary",
)
