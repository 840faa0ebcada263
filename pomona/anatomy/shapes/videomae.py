"""Encoder of tubes of a video, with LayerNorm before each part and positions that are computed, not learned."""

from __future__ import annotations

from dataclasses import replace

from pomona.anatomy.declaration import AttentionShape, FeedForwardShape, HeadShape, StackShape
from pomona.anatomy.shapes.vit import MASKED, PATCH, VIT
from pomona.anatomy.surroundings import Fast, Input, linear

VIDEOMAE = replace(
    VIT,
    name="videomae",
    model_types=("videomae",),
    inputs=(Input("pixel_values", ("num_frames", "num_channels", "image_size", "image_size"), "vision"), MASKED),
    stacks=(
        StackShape(
            blocks="encoder.layer",
            block=replace(
                VIT.stacks[0].block,
                attention=AttentionShape(
                    query="attention.attention.query",
                    key="attention.attention.key",
                    value="attention.attention.value",
                    output="attention.output.dense",
                ),
                ffn=FeedForwardShape(up="intermediate.dense", down="output.dense"),
            ),
            final_norm="layernorm?",
            causal=False,
        ),
    ),
    around=(PATCH, linear("to_decoder", "encoder_to_decoder?", "decoder_residual", "residual")),
    head=HeadShape(path="classifier", transform="fc_norm", transform_norm="fc_norm", outputs="label", pool="mean"),
    classifiers=(HeadShape(path="classifier", outputs="label", pool="first"),),
    fast=(
        Fast(
            "residual", "embeddings.position_embeddings", "sinusoids of each position are added to it, in a fixed order"
        ),
    ),
    positions="computed",
)
