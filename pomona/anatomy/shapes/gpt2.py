"""Decoder with learned positions, LayerNorm before each part, transposed weights and fused query, key and value."""

from __future__ import annotations

from pomona.anatomy.declaration import (
    AttentionShape,
    BlockShape,
    Factor,
    FeedForwardShape,
    Fields,
    Fused,
    HeadShape,
    Shape,
    StackShape,
)

GPT2 = Shape(
    name="gpt2",
    model_types=("gpt2",),
    embedding="wte",
    stacks=(
        StackShape(
            blocks="h",
            block=BlockShape(
                attention=AttentionShape(
                    query=Fused("attn.c_attn", "query"),
                    key=Fused("attn.c_attn", "key"),
                    value=Fused("attn.c_attn", "value"),
                    output="attn.c_proj",
                    scaling=Factor("head_dim", -0.5, when="scale_attn_weights"),
                    scaling_by_depth="scale_attn_by_inverse_layer_idx",
                ),
                ffn=FeedForwardShape(up="mlp.c_fc", down="mlp.c_proj"),
                norm_attention="ln_1",
                norm_ffn="ln_2",
                norm="layer",
            ),
            final_norm="ln_f",
            positions="wpe",
        ),
    ),
    head=HeadShape(path="lm_head"),
    positions="learned",
    fields=Fields(feed_forward="n_inner", fixed_depth=(("scale_attn_by_inverse_layer_idx", False),)),
)
