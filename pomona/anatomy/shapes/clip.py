"""Two encoders, of images and of texts, whose outputs are compared: each is an anatomy of its own."""

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
from pomona.anatomy.shapes.vit import IMAGES
from pomona.anatomy.surroundings import layer_norm, linear, vector

BLOCK = BlockShape(
    attention=AttentionShape(
        query="self_attn.q_proj", key="self_attn.k_proj", value="self_attn.v_proj", output="self_attn.out_proj"
    ),
    ffn=FeedForwardShape(up="mlp.fc1", down="mlp.fc2"),
    norm_attention="layer_norm1",
    norm_ffn="layer_norm2",
    norm="layer",
)

CLIP_VISION = Shape(
    name="clip-vision",
    model_types=("clip", "clip_vision_model"),
    body="vision_model",
    beside=("clip-text",),
    embedding=None,
    inputs=(IMAGES,),
    stacks=(
        StackShape(
            blocks="encoder.layers",
            block=BLOCK,
            positions="embeddings.position_embedding",
            embedding_norm="pre_layrnorm",
            causal=False,
        ),
    ),
    around=(
        linear("patch", "embeddings.patch_embedding", "residual", "pixel"),
        vector("class_token", "embeddings.class_embedding"),
        layer_norm("pooled_norm", "post_layernorm"),
        linear("projection", "visual_projection?", "compared", "residual", per="sequence"),
        vector("logit_scale", "logit_scale?", None),
    ),
    head=HeadShape(path="classifier", outputs="label", pool="made"),
    positions="learned",
    fields=Fields(max_positions=None, window=None),
)

CLIP_TEXT = replace(
    CLIP_VISION,
    name="clip-text",
    model_types=("clip", "clip_text_model"),
    body="text_model",
    beside=("clip-vision",),
    embedding="embeddings.token_embedding",
    inputs=(),
    stacks=(
        StackShape(
            blocks="encoder.layers",
            block=BLOCK,
            positions="embeddings.position_embedding",
            final_norm="final_layer_norm",
        ),
    ),
    around=(
        linear("projection", "text_projection?", "compared", "residual", per="sequence"),
        vector("logit_scale", "logit_scale?", None),
    ),
    head=None,
    fields=Fields(window=None),
)
