"""Encoder like BERT whose scores also compare tokens with relative positions (arXiv:2006.03654, Eq. 4).

One table of relative positions serves all blocks; each block projects it with matrices of its own or with those of its
queries and keys. An optional convolution stands between the first block and the second.
"""

from __future__ import annotations

from dataclasses import replace

from pomona.anatomy.declaration import AttentionShape
from pomona.anatomy.shapes.bert import BERT, HEAD, POOLER, STACK
from pomona.anatomy.surroundings import layer_norm, linear, table

DEBERTA_V2 = replace(
    BERT,
    name="deberta-v2",
    model_types=("deberta-v2",),
    embedding_features="embedding|residual",
    head=replace(HEAD, features="embedding|residual"),
    around=(
        linear("embedding_projection", "embeddings.embed_proj?", "residual", "embedding"),
        table("relative_positions", "encoder.rel_embeddings?", "distance"),
        layer_norm("relative_norm", "encoder.LayerNorm?"),
        linear("convolution", "encoder.conv.conv?", "residual", "residual*tap"),
        layer_norm("convolution_norm", "encoder.conv.LayerNorm?"),
        POOLER,
    ),
    stacks=(
        replace(
            STACK,
            block=replace(
                STACK.block,
                attention=AttentionShape(
                    query="attention.self.query_proj",
                    key="attention.self.key_proj",
                    value="attention.self.value_proj",
                    output="attention.output.dense",
                    position_query="attention.self.pos_query_proj?",
                    position_key="attention.self.pos_key_proj?",
                    position_kinds="pos_att_type",
                ),
                returns=2,
            ),
            positions="embeddings.position_embeddings?",
            tables=(("embeddings.token_type_embeddings?", "token_type"),),
            between="encoder.conv",
            causal=False,
        ),
    ),
    positions="disentangled",
)
