"""Partly rotary decoder whose attention and feed-forward read one LayerNorm at once."""

from __future__ import annotations

from pomona.anatomy.declaration import AttentionShape, BlockShape, FeedForwardShape, HeadShape, Shape, StackShape

PHI = Shape(
    name="phi",
    model_types=("phi",),
    embedding="embed_tokens",
    stacks=(
        StackShape(
            blocks="layers",
            block=BlockShape(
                attention=AttentionShape(
                    query="self_attn.q_proj",
                    key="self_attn.k_proj",
                    value="self_attn.v_proj",
                    output="self_attn.dense",
                    query_norm="self_attn.q_layernorm?",
                    key_norm="self_attn.k_layernorm?",
                ),
                ffn=FeedForwardShape(up="mlp.fc1", down="mlp.fc2"),
                norm_attention="input_layernorm",
                norm_ffn="input_layernorm",
                placement="parallel",
                norm="layer",
            ),
            final_norm="final_layernorm",
        ),
    ),
    head=HeadShape(path="lm_head"),
    positions="rotary",
)
