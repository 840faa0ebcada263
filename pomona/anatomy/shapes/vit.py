"""Encoders of patches, of images or of spectrograms, with LayerNorm before each part and tokens of their own."""

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
from pomona.anatomy.surroundings import Input, layer_norm, linear, table, vector

IMAGES = Input("pixel_values", ("num_channels", "image_size", "image_size"), "vision")
MASKED = Input("bool_masked_pos", None, "vision")
PATCH = linear("patch", "embeddings.patch_embeddings.projection", "residual", "pixel")
TOKENS = (
    vector("class_token", "embeddings.cls_token"),
    vector("distillation_token", "embeddings.distillation_token?"),
    vector("mask_token", "embeddings.mask_token?"),
)

VIT = Shape(
    name="vit",
    model_types=("vit", "deit"),
    embedding=None,
    inputs=(IMAGES, MASKED),
    stacks=(
        StackShape(
            blocks="layers",
            block=BlockShape(
                attention=AttentionShape(
                    query="attention.q_proj",
                    key="attention.k_proj",
                    value="attention.v_proj",
                    output="attention.o_proj",
                ),
                ffn=FeedForwardShape(up="mlp.fc1", down="mlp.fc2"),
                norm_attention="layernorm_before",
                norm_ffn="layernorm_after",
                norm="layer",
            ),
            positions="embeddings.position_embeddings",
            final_norm="layernorm",
            causal=False,
        ),
    ),
    around=(
        PATCH,
        *TOKENS,
        linear("pooler", "pooler.dense?", "pooled", "residual", per="sequence"),
        linear("class_classifier", "cls_classifier?", "label", "residual", per="sequence"),
        linear("distillation_classifier", "distillation_classifier?", "label", "residual", per="sequence"),
        linear("pixels", "decoder.0?", "pixel_out", "residual"),
    ),
    head=HeadShape(path="classifier", outputs="label", pool="first"),
    positions="learned",
    fields=Fields(max_positions=None, window=None),
)

DINOV2 = replace(
    VIT,
    name="dinov2",
    model_types=("dinov2", "dinov2_with_registers"),
    stacks=(
        replace(
            VIT.stacks[0],
            blocks="encoder.layer",
            block=replace(
                VIT.stacks[0].block,
                ffn=FeedForwardShape(up="mlp.fc1|mlp.up_proj", gate="mlp.gate_proj?", down="mlp.fc2|mlp.down_proj"),
                norm_attention="norm1",
                norm_ffn="norm2",
                scale_attention="layer_scale1.lambda1",
                scale_ffn="layer_scale2.lambda1",
            ),
        ),
    ),
    around=(PATCH, *TOKENS, table("register_tokens", "embeddings.register_tokens?", "register")),
    head=HeadShape(path="classifier", outputs="label", features="summary*residual", pool="first and made"),
)

AST = replace(
    VIT,
    name="audio-spectrogram-transformer",
    model_types=("audio-spectrogram-transformer",),
    inputs=(Input("input_values", ("max_length", "num_mel_bins"), "audio"),),
    around=(PATCH, *TOKENS, layer_norm("classifier.norm", "classifier.layernorm?")),
    head=HeadShape(path="classifier.dense", module="classifier", outputs="label", pool="own"),
)
