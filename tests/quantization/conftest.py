"""Tiny random models whose weights are large enough for quantization to matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

VOCABULARY = 96


def _llama() -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=VOCABULARY, tie_word_embeddings=True)
    return LlamaForCausalLM(config)


def _gpt2() -> Any:
    config = GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config)


def _bert() -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertForMaskedLM(BertConfig(**sizes, vocab_size=VOCABULARY, max_position_embeddings=64))


FAMILIES: dict[str, Callable[[], Any]] = {"llama": _llama, "gpt2": _gpt2, "bert": _bert}


def build_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A model of a family with weights from a seed, in evaluation mode."""
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[0] ** -0.5)
            elif parameter.dim() == 1 and parameter.mean() == 0:
                parameter.normal_(std=0.1)
    return model.to(dtype).eval()


@pytest.fixture
def build() -> Callable[..., Any]:
    """`build_model`."""
    return build_model


@pytest.fixture
def batches() -> list[dict[str, torch.Tensor]]:
    """Calibration batches: 4 of 8 x 16 tokens."""
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(0, VOCABULARY, (8, 16), generator=generator)} for _ in range(4)]
