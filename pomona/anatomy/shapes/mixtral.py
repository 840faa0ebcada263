"""Rotary decoder with RMSNorm before each part and experts in the place of the feed-forward."""

from __future__ import annotations

from pomona.anatomy.declaration import AttentionShape, BlockShape, ExpertsShape, Fused, HeadShape, Shape, StackShape

GATE_AND_UP = ("gate", "up")

MIXTRAL = Shape(
    name="mixtral",
    model_types=("mixtral",),
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
                ),
                ffn=ExpertsShape(
                    module="mlp",
                    router="mlp.gate",
                    up=Fused("mlp.experts.gate_up_proj", "up", GATE_AND_UP),
                    gate=Fused("mlp.experts.gate_up_proj", "gate", GATE_AND_UP),
                    down="mlp.experts.down_proj",
                    count="num_local_experts",
                    feed_forward="intermediate_size",
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
