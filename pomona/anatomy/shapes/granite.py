"""Rotary decoder with RMSNorm before each part and factors on embeddings, scores, what is added, and logits."""

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

GRANITE = Shape(
    name="granite",
    model_types=("granite",),
    embedding="embed_tokens",
    embedding_scale=Factor("embedding_multiplier"),
    stacks=(
        StackShape(
            blocks="layers",
            block=BlockShape(
                attention=AttentionShape(
                    query="self_attn.q_proj",
                    key="self_attn.k_proj",
                    value="self_attn.v_proj",
                    output="self_attn.o_proj",
                    scaling=Factor("attention_multiplier"),
                ),
                ffn=FeedForwardShape(up="mlp.up_proj", gate="mlp.gate_proj", down="mlp.down_proj"),
                norm_attention="input_layernorm",
                norm_ffn="post_attention_layernorm",
                branch_scale=Factor("residual_multiplier"),
            ),
            final_norm="norm",
        ),
    ),
    head=HeadShape(path="lm_head", logits_scale=Factor("logits_scaling", -1.0)),
    positions="rotary",
)
