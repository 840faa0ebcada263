"""Rotary decoder with RMSNorm on what each part gives, and on queries and keys of all heads together."""

from __future__ import annotations

from pomona.anatomy.declaration import AttentionShape, BlockShape, FeedForwardShape, HeadShape, Shape, StackShape

OLMO2 = Shape(
    name="olmo2",
    model_types=("olmo2", "olmo3"),
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
                    query_norm="self_attn.q_norm",
                    key_norm="self_attn.k_norm",
                ),
                ffn=FeedForwardShape(up="mlp.up_proj", gate="mlp.gate_proj", down="mlp.down_proj"),
                norm_attention_out="post_attention_layernorm",
                norm_ffn_out="post_feedforward_layernorm",
                placement="output",
            ),
            final_norm="norm",
        ),
    ),
    head=HeadShape(path="lm_head"),
    positions="rotary",
)
