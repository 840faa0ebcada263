"""A transformer of two blocks that looks values of keys up, by construction: what fails with it, the method has failed.

The sequence holds keys and values one after the other; after a token the model says what followed it before.
Block 1 copies the code of the previous token beside each token: positions are angles, and a query turned back by one
step fits the position before. Block 2 finds the tokens whose previous one is the present token, and copies their code
to where the head reads it. Codes are random unit vectors; scores are sharp enough that the softmax is a choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

CODE, ANGLES = 64, 16
"""Numbers of a token's code, and frequencies of a position's."""
BEFORE, MATCH = 60.0, 40.0
"""Sharpness of the two choices: the score of the right key, in nats."""


@dataclass
class Words:
    """Strings of hexadecimal digits as tokens, in the order in which they are first met; all else is passed over."""

    size: int
    ids: dict[str, int] = field(default_factory=dict)

    def encode(self, text: str) -> list[int]:
        """Ids of the strings of eight digits in a text."""
        return [self._id(word) for word in re.findall(r"\b[0-9a-f]{8}\b", text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The strings, as a value of two parts is written."""
        words = list(self.ids)
        return "-".join(words[each] if each < len(words) else "?" for each in ids)

    def _id(self, word: str) -> int:
        if word not in self.ids and len(self.ids) == self.size:
            raise ValueError(f"more than {self.size} different words")
        return self.ids.setdefault(word, len(self.ids))


@torch.no_grad()
def retriever(words: int, positions: int, seed: int = 0) -> Any:
    """The model: GPT-2-shaped, float32, 256 hidden features, four heads of which the first works in each block.

    Args:
        words: different tokens. positions: longest sequence. seed: of codes and frequencies.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    draw = torch.Generator().manual_seed(seed)
    hidden = 3 * CODE + 4 * ANGLES  # own code, code before, answer; position and its negative
    config = GPT2Config(
        vocab_size=words, n_positions=positions, n_embd=hidden, n_layer=2, n_head=hidden // CODE, n_inner=8,
        tie_word_embeddings=False, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():
        parameter.zero_()
        if name.endswith("weight") and ".ln_" in name:
            parameter.fill_(1.0)
    own, before, answer = (slice(CODE * part, CODE * (part + 1)) for part in range(3))
    angles, negative = slice(3 * CODE, 3 * CODE + 2 * ANGLES), slice(3 * CODE + 2 * ANGLES, hidden)
    # Every part of the stream has mean 0, so that the norms only divide by its length.
    codes = torch.randn(words, CODE, generator=draw)
    codes -= codes.mean(1, keepdim=True)
    codes /= codes.norm(dim=1, keepdim=True)
    model.transformer.wte.weight[:, own] = codes
    frequencies = torch.rand(ANGLES, generator=draw) * torch.pi
    turned = torch.arange(positions)[:, None] * frequencies
    place = torch.cat([turned.cos(), turned.sin()], 1) / (2 * ANGLES) ** 0.5  # with its negative: length 1
    model.transformer.wpe.weight[:, angles], model.transformer.wpe.weight[:, negative] = place, -place
    first, second = (block.attn for block in model.transformer.h)
    scale = {block: (length / hidden) ** 0.5 for block, length in ((0, 2.0), (1, 3.0))}
    # What a norm leaves of a part of length 1 is 1 / scale; scores are divided by the root of the head size.
    back = _rotation(frequencies)
    sharp = [weight * scale[block] ** 2 * CODE**0.5 for block, weight in ((0, 2 * BEFORE), (1, MATCH))]
    _write(first.c_attn.weight, angles, 0, sharp[0] * back)
    _write(first.c_attn.weight, angles, hidden, torch.eye(2 * ANGLES))
    _write(first.c_attn.weight, own, 2 * hidden, scale[0] * torch.eye(CODE))
    first.c_proj.weight[:CODE, before] = torch.eye(CODE)
    _write(second.c_attn.weight, own, 0, sharp[1] * torch.eye(CODE))
    _write(second.c_attn.weight, before, hidden, torch.eye(CODE))
    _write(second.c_attn.weight, own, 2 * hidden, scale[1] * torch.eye(CODE))
    second.c_proj.weight[:CODE, answer] = torch.eye(CODE)
    model.lm_head.weight[:, answer] = codes
    return model


def _rotation(frequencies: Tensor) -> Tensor:
    """(2 F, 2 F) that turns the code of a position, a row, into that of the position before."""
    cosine, sine = frequencies.cos().diag(), frequencies.sin().diag()
    return torch.cat([torch.cat([cosine, -sine], 1), torch.cat([sine, cosine], 1)])


def _write(weight: Tensor, rows: slice, column: int, values: Tensor) -> None:
    """Put a map into the first head's columns of a fused (inputs, outputs) weight."""
    weight[rows, column : column + values.shape[1]] = values
