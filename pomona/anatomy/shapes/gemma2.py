"""Rotary decoder with RMSNorm on both sides of each part, scaled embeddings, and caps on scores and logits."""

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

GEMMA2 = Shape(
    name="gemma2",
    model_types=("gemma2", "gemma3_text"),
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
                    query_norm="self_attn.q_norm?",
                    key_norm="self_attn.k_norm?",
                    scaling=Factor("query_pre_attn_scalar", -0.5),
                    softcap="attn_logit_softcapping",
                ),
                ffn=FeedForwardShape(up="mlp.up_proj", gate="mlp.gate_proj", down="mlp.down_proj"),
                norm_attention="input_layernorm",
                norm_attention_out="post_attention_layernorm",
                norm_ffn="pre_feedforward_layernorm",
                norm_ffn_out="post_feedforward_layernorm",
                placement="sandwich",
                norm_offset=1.0,
            ),
            final_norm="norm",
        ),
    ),
    head=HeadShape(path="lm_head", softcap="final_logit_softcapping"),
    positions="rotary",
)
