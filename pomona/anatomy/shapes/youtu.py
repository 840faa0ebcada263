"""Rotary decoder with RMSNorm before each part and multi-head latent attention: keys and values are made of a latent.

DeepSeek's models have the same attention, but routed experts in most blocks: those are not declared.
"""

from __future__ import annotations

from pomona.anatomy.declaration import (
    AttentionShape,
    BlockShape,
    FeedForwardShape,
    Fields,
    Fused,
    HeadShape,
    LatentShape,
    Shape,
    StackShape,
)

KEY_AND_VALUE = ("key", "value")

YOUTU = Shape(
    name="youtu",
    model_types=("youtu",),
    embedding="embed_tokens",
    stacks=(
        StackShape(
            blocks="layers",
            block=BlockShape(
                attention=AttentionShape(
                    query="self_attn.q_proj|self_attn.q_b_proj",
                    key=Fused("self_attn.kv_b_proj", "key", KEY_AND_VALUE, interleaved=True),
                    value=Fused("self_attn.kv_b_proj", "value", KEY_AND_VALUE, interleaved=True),
                    output="self_attn.o_proj",
                    key_value_latent=LatentShape(down="self_attn.kv_a_proj_with_mqa", norm="self_attn.kv_a_layernorm"),
                    query_latent=LatentShape(down="self_attn.q_a_proj", norm="self_attn.q_a_layernorm"),
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
    fields=Fields(head_dim="qk_head_dim"),
)
