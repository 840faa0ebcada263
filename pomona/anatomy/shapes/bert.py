"""Encoder with learned positions, LayerNorm after each residual sum, and a transform before the vocabulary."""

from __future__ import annotations

from pomona.anatomy.declaration import AttentionShape, BlockShape, FeedForwardShape, HeadShape, Shape, StackShape
from pomona.anatomy.surroundings import linear

STACK = StackShape(
    blocks="encoder.layer",
    block=BlockShape(
        attention=AttentionShape(
            query="attention.self.query",
            key="attention.self.key",
            value="attention.self.value",
            output="attention.output.dense",
        ),
        ffn=FeedForwardShape(up="intermediate.dense", down="output.dense"),
        norm_attention="attention.output.LayerNorm",
        norm_ffn="output.LayerNorm",
        placement="post",
        norm="layer",
    ),
    positions="embeddings.position_embeddings",
    tables=(("embeddings.token_type_embeddings", "token_type"),),
    embedding_norm="embeddings.LayerNorm",
    causal="is_decoder",
)
POOLER = linear("pooler", "pooler.dense?", "pooled", "residual", per="sequence")

BERT = Shape(
    name="bert",
    model_types=("bert",),
    embedding="embeddings.word_embeddings",
    stacks=(STACK,),
    around=(POOLER, linear("next_sentence", "cls.seq_relationship?", "label", "pooled", per="sequence")),
    head=HeadShape(
        path="cls.predictions.decoder",
        transform="cls.predictions.transform",
        transform_linear="cls.predictions.transform.dense",
        transform_norm="cls.predictions.transform.LayerNorm",
    ),
    positions="learned",
)
