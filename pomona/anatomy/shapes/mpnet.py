"""Encoder like BERT, with one table of score biases by relative position for all of its blocks."""

from __future__ import annotations

from dataclasses import replace

from pomona.anatomy.declaration import AttentionShape
from pomona.anatomy.shapes.bert import ROBERTA, STACK

MPNET = replace(
    ROBERTA,
    name="mpnet",
    model_types=("mpnet",),
    stacks=(
        replace(
            STACK,
            block=replace(
                STACK.block,
                attention=AttentionShape(
                    query="attention.attn.q",
                    key="attention.attn.k",
                    value="attention.attn.v",
                    output="attention.attn.o",
                ),
                norm_attention="attention.LayerNorm",
                returns=1,
            ),
            tables=(),
            first_position=2,
            bias_table="encoder.relative_attention_bias",
            causal=False,
        ),
    ),
)
