"""A tiny model and a tiny stream, enough to train for real in milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pomona.engine import Batch

VOCABULARY = 64


class ToyStream:
    """Sequences that count upwards from a start drawn by (step, rank): easy to learn, a pure function."""

    def __init__(self, batch_size: int = 8, length: int = 16) -> None:
        self.batch_size, self.length = batch_size, length

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        generator = torch.Generator().manual_seed(step * 17 + rank)
        start = torch.randint(0, VOCABULARY, (self.batch_size, 1), generator=generator)
        tokens = (start + torch.arange(self.length + 1)) % VOCABULARY
        return [{"tokens": part} for part in tokens.chunk(micro_batches)]


@pytest.fixture
def tiny() -> Callable[[], LlamaForCausalLM]:
    """Makes the same tiny Llama at each call."""

    def make() -> LlamaForCausalLM:
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=VOCABULARY,
                max_position_embeddings=32,
                tie_word_embeddings=True,
                attention_dropout=0.1,
            )
        )

    return make
