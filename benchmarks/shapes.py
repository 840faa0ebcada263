"""The models that every benchmark agrees on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class Shape:
    """A Llama with tied embeddings, and the batch it is trained with."""

    hidden_size: int
    blocks: int
    heads: int
    intermediate_size: int
    vocab_size: int
    context: int
    sequences: int
    """Sequences per optimizer step in the throughput benchmarks."""

    @property
    def matrix_parameters(self) -> int:
        """Parameters that take part in a matrix product for every token: blocks and the tied head."""
        block = 4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size
        return self.blocks * block + self.vocab_size * self.hidden_size

    @property
    def flops_per_token(self) -> float:
        """Model FLOPs of one training token: six per parameter, and causal attention (half of the square)."""
        return 6.0 * self.matrix_parameters + 6.0 * self.blocks * self.context * self.hidden_size


SHAPES = {
    "reference": Shape(256, 6, 4, 704, 4096, 256, 16),
    "toy": Shape(32, 2, 2, 64, 512, 32, 4),
}


def make_model(shape: Shape, seed: int = 0) -> LlamaForCausalLM:
    """A freshly initialised fp32 model of this shape, as transformers makes it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.blocks,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            intermediate_size=shape.intermediate_size,
            vocab_size=shape.vocab_size,
            max_position_embeddings=shape.context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
