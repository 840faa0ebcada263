"""Decoder with learned positions, the first two rows apart, and LayerNorm before or after each part."""

from __future__ import annotations

from pomona.anatomy.declaration import (
    AttentionShape,
    BlockShape,
    ByFlag,
    FeedForwardShape,
    Fields,
    HeadShape,
    Shape,
    StackShape,
)
from pomona.anatomy.surroundings import linear

OPT = Shape(
    name="opt",
    model_types=("opt",),
    embedding="decoder.embed_tokens",
    embedding_features="embedding|residual",
    stacks=(
        StackShape(
            blocks="decoder.layers",
            block=BlockShape(
                attention=AttentionShape(
                    query="self_attn.q_proj",
                    key="self_attn.k_proj",
                    value="self_attn.v_proj",
                    output="self_attn.out_proj",
                ),
                ffn=FeedForwardShape(up="fc1", down="fc2"),
                norm_attention="self_attn_layer_norm",
                norm_ffn="final_layer_norm",
                placement=ByFlag("do_layer_norm_before", yes="pre", no="post"),
                norm="layer",
            ),
            positions="decoder.embed_positions",
            positions_features="residual",
            first_position=2,
            final_norm="decoder.final_layer_norm?",
        ),
    ),
    around=(
        linear("embedding_projection", "decoder.project_in?", "residual", "embedding"),
        linear("output_projection", "decoder.project_out?", "embedding", "residual"),
    ),
    head=HeadShape(path="lm_head", features="embedding|residual"),
    positions="learned",
    fields=Fields(feed_forward="ffn_dim"),
)
