"""Hostile text, a tiny model with a tokenizer, and the same as folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HOSTILE = (
    "</text><script>alert('1')</script>\"' onload=x &amp;<b>$x_1$ \u202egnp \x00\x1b[31m ]]> --> `|`שלום 漢字 🙂 \\"
)
"""What a name must not be able to do: end a tag, an attribute, a cell, a code block, or turn the line's direction."""

WORDS = ["<end>", "a", "b", "c", "d", "e", "f", "g", " "]


@pytest.fixture(scope="session")
def tiny() -> LlamaForCausalLM:
    """A Llama of two blocks over nine tokens, with weights large enough that its guesses differ."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=len(WORDS),
        max_position_embeddings=32,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter."""
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token=" "))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", unk_token=" ")


@pytest.fixture
def folder(tmp_path: Path, tiny: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The tiny model as a folder in Hugging Face's form."""
    place = tmp_path / "model"
    tiny.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place
