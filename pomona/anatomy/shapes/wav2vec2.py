"""Encoder of sounds: convolutions over samples, positions by a grouped convolution over hidden states.

Blocks have LayerNorm after each residual sum (the base models) or before each part ("stable", the large ones).
"""

from __future__ import annotations

from dataclasses import replace

from pomona.anatomy.declaration import (
    AttentionShape,
    BlockShape,
    FeedForwardShape,
    Fields,
    HeadShape,
    Shape,
    StackShape,
)
from pomona.anatomy.surroundings import Fast, Input, layer_norm, linear, vector

CONVOLUTION = "feature_extractor.conv_layers.*"
POSITIONS = "encoder.pos_conv_embed.conv"

WAV2VEC2 = Shape(
    name="wav2vec2",
    model_types=("wav2vec2", "hubert"),
    when=(("do_stable_layer_norm", False),),
    embedding=None,
    inputs=(Input("input_values", (400,), "audio"), Input("mask_time_indices", None, "audio")),
    stacks=(
        StackShape(
            blocks="encoder.layers",
            block=BlockShape(
                attention=AttentionShape(
                    query="attention.q_proj",
                    key="attention.k_proj",
                    value="attention.v_proj",
                    output="attention.out_proj",
                ),
                ffn=FeedForwardShape(up="feed_forward.intermediate_dense", down="feed_forward.output_dense"),
                norm_attention="layer_norm",
                norm_ffn="final_layer_norm",
                placement="post",
                norm="layer",
            ),
            embedding_norm="encoder.layer_norm",
            causal=False,
        ),
    ),
    around=(
        linear("convolution", f"{CONVOLUTION}.conv", "channel.{i}", "channel.{before}*tap.{i}"),
        vector("convolution_gain", f"{CONVOLUTION}.layer_norm.weight?", "channel.{i}"),
        vector("convolution_bias", f"{CONVOLUTION}.layer_norm.bias?", "channel.{i}"),
        layer_norm("frame_norm", "feature_projection.layer_norm?", "channel.last"),
        linear("frame", "feature_projection.projection", "residual", "channel.last"),
        vector("mask_token", "masked_spec_embed"),
        vector("positions.gain", f"{POSITIONS}.parametrizations.weight.original0", "tap"),
        linear("positions", f"{POSITIONS}.parametrizations.weight.original1", "residual", "neighbour*tap"),
        vector("positions.bias", f"{POSITIONS}.bias"),
        linear("pooler", "projector?", "pooled", "residual"),
        vector("layer_weights", "layer_weights?", "layer"),
    ),
    head=HeadShape(path="lm_head", outputs="label"),
    fast=(Fast("residual", POSITIONS, "a grouped convolution mixes it within runs of neighbours"),),
    positions="convolution",
    fields=Fields(max_positions=None, window=None, vocabulary=None),
)

WAV2VEC2_STABLE = replace(
    WAV2VEC2,
    name="wav2vec2-stable",
    when=(("do_stable_layer_norm", True),),
    stacks=(
        replace(
            WAV2VEC2.stacks[0],
            block=replace(WAV2VEC2.stacks[0].block, placement="pre"),
            embedding_norm=None,
            final_norm="encoder.layer_norm",
        ),
    ),
)
