"""Tiny random models of every family that the anatomy knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY = 96
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}


def llama(**changes: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_key_value_heads": 4, "tie_word_embeddings": True, **changes}))


def _grouped(**changes: Any) -> Any:
    return llama(num_key_value_heads=2, tie_word_embeddings=False, **changes)


def _qwen2(**changes: Any) -> Any:
    return Qwen2ForCausalLM(Qwen2Config(**{**SIZES, "num_key_value_heads": 2, **changes}))


def _qwen3(**changes: Any) -> Any:
    types = ["full_attention", "sliding_attention", "full_attention"]
    own = {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "layer_types": types,
        "sliding_window": 6,
        "use_sliding_window": True,
    }
    return Qwen3ForCausalLM(Qwen3Config(**{**SIZES, **own, "tie_word_embeddings": True, **changes}))


def _mistral(**changes: Any) -> Any:
    return MistralForCausalLM(MistralConfig(**{**SIZES, "num_key_value_heads": 2, "sliding_window": 8, **changes}))


def _gpt2(**changes: Any) -> Any:
    own = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**{**own, "bos_token_id": 0, "eos_token_id": 0, **changes}))


def _bert(**changes: Any) -> Any:
    return BertForMaskedLM(BertConfig(**{**SIZES, **changes}))


def _t5(**changes: Any) -> Any:
    own = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    ends = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    return T5ForConditionalGeneration(T5Config(**{**own, **ends, **changes}))


def _t5_gated(**changes: Any) -> Any:
    return _t5(feed_forward_proj="gated-gelu", **changes)


MAKERS: dict[str, Callable[..., Any]] = {
    "llama": llama,
    "llama-grouped-untied": _grouped,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "mistral": _mistral,
    "gpt2": _gpt2,
    "bert": _bert,
    "t5": _t5,
    "t5-gated": _t5_gated,
}
SINGLE = [name for name in MAKERS if not name.startswith("t5")]
CAUSAL = [name for name in SINGLE if name != "bert"]


def make(name: str, **changes: Any) -> Any:
    """A tiny random model in evaluation mode; the same one at every call."""
    torch.manual_seed(0)
    return MAKERS[name](**changes).eval()


def inputs_of(model: Any, batch: int = 2, tokens: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """Random token ids in the form that the model takes."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (batch, tokens), generator=generator)
    if not model.config.is_encoder_decoder:
        return {"input_ids": ids}
    return {"input_ids": ids, "decoder_input_ids": torch.randint(2, VOCABULARY, (batch, 7), generator=generator)}


@pytest.fixture(params=list(MAKERS))
def any_model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


@pytest.fixture(params=SINGLE)
def single_model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


@pytest.fixture(params=CAUSAL)
def causal_model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)
