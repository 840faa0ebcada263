"""Rotary decoder with RMSNorm before each part; experts, one of them shared, or a plain feed-forward in each block."""

from __future__ import annotations

from pomona.anatomy.declaration import (
    AttentionShape,
    BlockShape,
    ExpertsShape,
    FeedForwardShape,
    Fields,
    Fused,
    HeadShape,
    Shape,
    StackShape,
)

GATE_AND_UP = ("gate", "up")


def _feed_forward(path: str, optional: str = "") -> FeedForwardShape:
    return FeedForwardShape(up=f"{path}.up_proj", gate=f"{path}.gate_proj", down=f"{path}.down_proj{optional}")


QWEN_MOE = Shape(
    name="qwen_moe",
    model_types=("qwen2_moe", "qwen3_moe"),
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
                ffn=(
                    ExpertsShape(
                        module="mlp",
                        router="mlp.gate",
                        up=Fused("mlp.experts.gate_up_proj", "up", GATE_AND_UP),
                        gate=Fused("mlp.experts.gate_up_proj", "gate", GATE_AND_UP),
                        down="mlp.experts.down_proj",
                        shared=_feed_forward("mlp.shared_expert", "?"),
                        shared_gate="mlp.shared_expert_gate",
                    ),
                    _feed_forward("mlp"),
                ),
                norm_attention="input_layernorm",
                norm_ffn="post_attention_layernorm",
            ),
            final_norm="norm",
        ),
    ),
    head=HeadShape(path="lm_head"),
    positions="rotary",
    fields=Fields(of_blocks=("mlp_only_layers",), fixed_depth=(("decoder_sparse_step", 1),)),
)
