"""Tiny random models for the tests of methods, by the name of the configuration's fields."""

from __future__ import annotations

from typing import Any

from pomona.anatomy.tiny import VOCABULARY, tiny_model

__all__ = ["FAMILIES", "VOCABULARY", "bert", "gpt2", "llama", "t5"]


def llama(blocks: int = 2, **changes: Any) -> Any:
    """Rotary positions, gated feed-forward, tied head; square, tall and wide matrices."""
    sizes = {"intermediate_size": 88, "num_attention_heads": 2, "num_key_value_heads": 2, "eos_token_id": 1}
    return tiny_model("llama", **{**sizes, "num_hidden_layers": blocks, **changes}).train()


def gpt2(blocks: int = 2, **changes: Any) -> Any:
    """Learned positions, fused and transposed projections, biases."""
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"n_head": 2, "eos_token_id": 1, **dropout}
    return tiny_model("gpt2", **{**sizes, "n_layer": blocks, **changes}).train()


def bert(blocks: int = 2, **changes: Any) -> Any:
    """Bidirectional, post-norm, a transform before the head."""
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {"num_attention_heads": 2, "intermediate_size": 64, **dropout}
    return tiny_model("bert", **{**sizes, "num_hidden_layers": blocks, **changes}).train()


def t5(blocks: int = 2, **changes: Any) -> Any:
    """Encoder and decoder with a relative position bias."""
    sizes = {"d_kv": 16, "d_ff": 64, "num_heads": 2, "dropout_rate": 0.0}
    return tiny_model("t5", **{**sizes, "num_layers": blocks, **changes}).train()


FAMILIES = {"llama": llama, "gpt2": gpt2, "bert": bert, "t5": t5}
"""Name to maker."""
