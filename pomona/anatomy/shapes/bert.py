"""Encoders with learned positions, LayerNorm after each residual sum, and a transform before the vocabulary."""

from __future__ import annotations

from dataclasses import replace

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
HEAD = HeadShape(
    path="cls.predictions.decoder",
    transform="cls.predictions.transform",
    transform_linear="cls.predictions.transform.dense",
    transform_norm="cls.predictions.transform.LayerNorm",
)
POOLER = linear("pooler", "pooler.dense?", "pooled", "residual", per="sequence")
DENSE = linear("classifier.dense", "classifier.dense?", "pooled", "residual", per="sequence")
CLASSIFIERS = (
    HeadShape(path="classifier.out_proj", outputs="label", features="pooled", pool=None),
    *Shape.classifiers,
)

BERT = Shape(
    name="bert",
    model_types=("bert",),
    embedding="embeddings.word_embeddings",
    stacks=(STACK,),
    around=(POOLER, linear("next_sentence", "cls.seq_relationship?", "label", "pooled", per="sequence")),
    head=HEAD,
    positions="learned",
)

LM_HEAD = HeadShape(
    path="lm_head.decoder",
    module="lm_head",
    transform_linear="lm_head.dense",
    transform_norm="lm_head.layer_norm",
)

ROBERTA = replace(
    BERT,
    name="roberta",
    model_types=("roberta", "xlm-roberta", "camembert"),
    around=(POOLER, DENSE),
    stacks=(replace(STACK, first_position="pad_token_id"),),
    head=LM_HEAD,
    classifiers=CLASSIFIERS,
)

ELECTRA = replace(
    BERT,
    name="electra",
    model_types=("electra",),
    embedding_features="embedding|residual",
    around=(
        linear("embedding_projection", "embeddings_project?", "residual", "embedding"),
        DENSE,
        linear("discriminator.dense", "discriminator_predictions.dense?", "pooled", "residual"),
    ),
    head=HeadShape(
        path="generator_lm_head",
        transform="generator_predictions",
        transform_linear="generator_predictions.dense",
        transform_norm="generator_predictions.LayerNorm",
        features="embedding|residual",
    ),
    classifiers=(
        HeadShape(
            path="discriminator_predictions.dense_prediction",
            module="discriminator_predictions",
            outputs="label",
            features="pooled",
        ),
        *CLASSIFIERS,
    ),
    stacks=(replace(STACK, embedding_norm_over="embedding|residual"),),
)
