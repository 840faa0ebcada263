"""Tiny random models for the tests of methods."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY = 96


def llama(blocks: int = 2, **changes: Any) -> Any:
    """Rotary positions, gated feed-forward, tied head; square, tall and wide matrices."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 88,
        "num_hidden_layers": blocks,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))


def gpt2(blocks: int = 2, **changes: Any) -> Any:
    """Learned positions, fused and transposed projections, biases."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "n_embd": 32,
        "n_layer": blocks,
        "n_head": 2,
        "vocab_size": VOCABULARY,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**{**settings, **dropout, **changes}))


def bert(blocks: int = 2, **changes: Any) -> Any:
    """Bidirectional, post-norm, a transform before the head."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": blocks,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return BertForMaskedLM(BertConfig(**{**settings, **changes}))


def t5(blocks: int = 2, **changes: Any) -> Any:
    """Encoder and decoder with a relative position bias."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": blocks,
        "num_heads": 2,
        "vocab_size": VOCABULARY,
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
    }
    return T5ForConditionalGeneration(T5Config(**{**settings, **changes}))


FAMILIES = {"llama": llama, "gpt2": gpt2, "bert": bert, "t5": t5}
"""Name to maker."""
