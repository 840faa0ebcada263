"""Encoder and decoder with relative position bias, RMSNorm before each part, feed-forward gated or not."""

from __future__ import annotations

from pomona.anatomy.declaration import (
    AttentionShape,
    BlockShape,
    Factor,
    FeedForwardShape,
    Fields,
    HeadShape,
    Shape,
    StackShape,
)


def _attention(path: str, bias_table: str = "") -> AttentionShape:
    return AttentionShape(
        query=f"{path}.q",
        key=f"{path}.k",
        value=f"{path}.v",
        output=f"{path}.o",
        bias_table=f"{path}.{bias_table}" if bias_table else None,
        scaling=1.0,
    )


def _feed_forward(path: str) -> FeedForwardShape:
    return FeedForwardShape(up=f"{path}.wi_1|{path}.wi", gate=f"{path}.wi_0?", down=f"{path}.wo")


T5 = Shape(
    name="t5",
    model_types=("t5",),
    embedding="shared",
    stacks=(
        StackShape(
            name="encoder",
            blocks="encoder.block",
            block=BlockShape(
                attention=_attention("layer.0.SelfAttention", "relative_attention_bias?"),
                ffn=_feed_forward("layer.1.DenseReluDense"),
                norm_attention="layer.0.layer_norm",
                norm_ffn="layer.1.layer_norm",
                returns=3,
                carries=((1, "position_bias"),),
            ),
            final_norm="encoder.final_layer_norm",
            causal=False,
            count="num_layers",
        ),
        StackShape(
            name="decoder",
            blocks="decoder.block",
            block=BlockShape(
                attention=_attention("layer.0.SelfAttention", "relative_attention_bias?"),
                cross_attention=_attention("layer.1.EncDecAttention"),
                ffn=_feed_forward("layer.2.DenseReluDense"),
                norm_attention="layer.0.layer_norm",
                norm_cross="layer.1.layer_norm",
                norm_ffn="layer.2.layer_norm",
                returns=3,
                carries=((1, "position_bias"),),
            ),
            final_norm="decoder.final_layer_norm",
            count="num_decoder_layers",
        ),
    ),
    head=HeadShape(path="lm_head", scale=Factor("hidden_size", -0.5, when="scale_decoder_outputs")),
    positions="relative_bias",
    fields=Fields(
        hidden_size="d_model", heads="num_heads", head_dim="d_kv", feed_forward="d_ff", max_positions=None, window=None
    ),
)
