"""Rotary encoder with LayerNorm before each part, a gated feed-forward, and local attention in most blocks.

The first block has no norm before its attention: the norm on the embedding serves it.
"""

from __future__ import annotations

from pomona.anatomy.declaration import (
    AttentionShape,
    BlockShape,
    FeedForwardShape,
    Fused,
    HeadShape,
    Shape,
    StackShape,
)

HALVES = ("gate", "up")

MODERNBERT = Shape(
    name="modernbert",
    model_types=("modernbert",),
    embedding="embeddings.tok_embeddings",
    stacks=(
        StackShape(
            blocks="layers",
            block=BlockShape(
                attention=AttentionShape(
                    query=Fused("attn.Wqkv", "query"),
                    key=Fused("attn.Wqkv", "key"),
                    value=Fused("attn.Wqkv", "value"),
                    output="attn.Wo",
                ),
                ffn=FeedForwardShape(
                    up=Fused("mlp.Wi", "up", HALVES), gate=Fused("mlp.Wi", "gate", HALVES), down="mlp.Wo"
                ),
                norm_attention="attn_norm?",
                norm_ffn="mlp_norm",
                norm="layer",
            ),
            embedding_norm="embeddings.norm",
            final_norm="final_norm",
            first="has no norm before its attention",
            causal=False,
        ),
    ),
    head=HeadShape(path="decoder", transform="head", transform_linear="head.dense", transform_norm="head.norm"),
    positions="rotary",
)
