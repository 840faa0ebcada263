"""Partly rotary decoder with RMSNorm before each part, fused query, key and value, and fused gate and up."""

from __future__ import annotations

from pomona.anatomy.declaration import AttentionShape, BlockShape, FeedForwardShape, Fused, HeadShape, Shape, StackShape

GATE_AND_UP = ("gate", "up")

PHI3 = Shape(
    name="phi3",
    model_types=("phi3",),
    embedding="embed_tokens",
    stacks=(
        StackShape(
            blocks="layers",
            block=BlockShape(
                attention=AttentionShape(
                    query=Fused("self_attn.qkv_proj", "query"),
                    key=Fused("self_attn.qkv_proj", "key"),
                    value=Fused("self_attn.qkv_proj", "value"),
                    output="self_attn.o_proj",
                ),
                ffn=FeedForwardShape(
                    up=Fused("mlp.gate_up_proj", "up", GATE_AND_UP),
                    gate=Fused("mlp.gate_up_proj", "gate", GATE_AND_UP),
                    down="mlp.down_proj",
                ),
                norm_attention="input_layernorm",
                norm_ffn="post_attention_layernorm",
            ),
            final_norm="norm",
        ),
    ),
    head=HeadShape(path="lm_head"),
    positions="rotary",
)
