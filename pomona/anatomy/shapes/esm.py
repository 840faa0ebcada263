"""Protein encoder with LayerNorm before each part; positions rotary or learned. A head for contacts reads all maps."""

from __future__ import annotations

from dataclasses import replace

from pomona.anatomy.declaration import AttentionShape, BlockShape, Factor, FeedForwardShape, Shape, StackShape
from pomona.anatomy.shapes.bert import CLASSIFIERS, DENSE, LM_HEAD, POOLER
from pomona.anatomy.surroundings import linear

ESM = Shape(
    name="esm",
    model_types=("esm",),
    when=(("position_embedding_type", "rotary"),),
    embedding="embeddings.word_embeddings",
    # 12 % of the tokens were masked in training, and those left count for all.
    embedding_scale=Factor(0.88, when="token_dropout"),
    stacks=(
        StackShape(
            blocks="encoder.layer",
            block=BlockShape(
                attention=AttentionShape(
                    query="attention.self.query",
                    key="attention.self.key",
                    value="attention.self.value",
                    output="attention.output.dense",
                ),
                ffn=FeedForwardShape(up="intermediate.dense", down="output.dense"),
                norm_attention="attention.LayerNorm",
                norm_ffn="LayerNorm",
                norm="layer",
            ),
            embedding_norm="embeddings.layer_norm?",
            final_norm="encoder.emb_layer_norm_after",
            causal=False,
        ),
    ),
    around=(POOLER, DENSE, linear("contacts", "contact_head.regression?", "label", "maps", per=None)),
    head=replace(LM_HEAD, bias="lm_head.bias"),
    classifiers=CLASSIFIERS,
    positions="rotary",
)

ESM_LEARNED = replace(
    ESM,
    name="esm-learned",
    when=(("position_embedding_type", "absolute"),),
    stacks=(replace(ESM.stacks[0], positions="embeddings.position_embeddings", first_position="pad_token_id"),),
    positions="learned",
)
