"""Rotary decoder with RMSNorm before each part and a gated feed-forward."""

from __future__ import annotations

from pomona.anatomy.declaration import AttentionShape, BlockShape, FeedForwardShape, HeadShape, Shape, StackShape

LLAMA = Shape(
    name="llama",
    model_types=("llama", "mistral", "qwen2", "qwen3", "smollm3"),
    embedding="embed_tokens",
    stacks=(
        StackShape(
            blocks="layers",
            block=BlockShape(
                attention=AttentionShape(
                    query="self_attn.q_proj",
                    key="self_attn.k_proj",
                    value="self_attn.v_proj",
                    output="self_attn.o_proj",
                    query_norm="self_attn.q_norm?",
                    key_norm="self_attn.k_norm?",
                ),
                ffn=FeedForwardShape(up="mlp.up_proj", gate="mlp.gate_proj", down="mlp.down_proj"),
                norm_attention="input_layernorm",
                norm_ffn="post_attention_layernorm",
            ),
            final_norm="norm",
        ),
    ),
    head=HeadShape(path="lm_head"),
    positions="rotary",
)
