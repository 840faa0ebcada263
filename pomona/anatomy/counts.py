"""Counts that follow from the parts: parameters, FLOPs per token, bytes of the key-value cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from pomona.anatomy.block import Attention
from pomona.anatomy.weight import Weight

if TYPE_CHECKING:
    from pomona.anatomy.body import Anatomy


def parameter_count(body: Anatomy, *, trainable: bool = False, non_embedding: bool = False) -> int:
    """Number of parameters of the model, tied ones once.

    Args:
        trainable: only those with `requires_grad`.
        non_embedding: without the token embedding, the head and the learned positions.
    """
    tables = [
        body.embedding,
        body.head,
        *(table for stack in body.stacks for table in (stack.positions, *stack.tables)),
    ]
    left_out = {id(table.parameter) for table in tables if table is not None} if non_embedding else set()
    return sum(
        parameter.numel()
        for parameter in body.model.parameters()
        if id(parameter) not in left_out and (parameter.requires_grad or not trainable)
    )


def flops_per_token(
    body: Anatomy, seq_length: int, *, training: bool = True, target_length: int | None = None
) -> float:
    """Floating-point operations of the matrix products, per token of a sequence of `seq_length`.

    Two per weight of a linear map and token, two per score and per weighted value (half of them under a causal
    mask), three times that in training. Norms, activations and softmax are not counted. Of experts, those that a token
    uses are. What makes tokens of the input and what reads a whole sequence count with the sequence. With an encoder
    and a decoder the sum over both is divided by the number of input tokens.

    Args:
        seq_length: tokens of a sequence (of the encoder's, where there are two stacks), those included that the model
            adds itself (a class token).
        target_length: tokens of the decoder's sequence; default: `seq_length`.
    """
    targets = seq_length if target_length is None else target_length
    total = 0.0
    for stack in body.stacks:
        last = stack is body.stacks[-1]
        tokens = targets if last and len(body.stacks) > 1 else seq_length
        for block in stack.blocks:
            cross = block.cross_attention
            attentions = [a for a in (block.attention, cross) if a is not None]
            maps = [w for a in attentions for w in (a.query, a.key, a.value, a.output)]
            maps += [latent.down for a in attentions for latent in a.latents()]
            linear = sum(weight.numel() for weight in maps)
            linear += block.ffn.active_parameters()
            scored = _mean_keys(block.attention, tokens)
            width = block.attention.num_heads * (block.attention.head_dim.size + block.attention.value_dim.size)
            total += tokens * 2 * (linear + width * scored)
            if cross is not None:
                # Keys and values are made once per encoder token.
                made = cross.key.numel() + cross.value.numel()
                width = cross.num_heads * (cross.head_dim.size + cross.value_dim.size)
                total += 2 * (made * (seq_length - tokens) + tokens * width * seq_length)
            total += tokens * 2 * _position_scores(body, block.attention)
        if last and body.head is not None:
            maps = [body.head, *(part for part in body.transform_parts if part.kind == "linear")]
            total += (tokens if body.pool == "tokens" else 1) * 2 * sum(weight.numel() for weight in maps)
    total += _around(body, seq_length)
    return total / seq_length * (3 if training else 1)


def kv_cache_bytes(body: Anatomy, tokens: int, batch: int = 1, dtype: torch.dtype | None = None) -> int:
    """Bytes of keys and values that generation keeps for `tokens` positions of `batch` sequences.

    Of attention with a latent of keys and values, the latent and the shared key are kept.

    Args:
        dtype: of the cache; default: the model's own.
    """
    size = (dtype or body.dtype).itemsize
    total = 0
    for block in body.stacks[-1].blocks:
        for attention in (block.attention, block.cross_attention):
            # Attention to all positions is computed anew for each sequence.
            if attention is not None and (attention.causal or attention is block.cross_attention):
                # The newest token's keys are added before they are read, so a window of w keeps w - 1 earlier ones.
                kept = tokens if attention.window is None else min(tokens, attention.window - 1)
                total += _cached_numbers(attention) * kept
    return total * batch * size


def _cached_numbers(attention: Attention) -> int:
    """Numbers that generation keeps of one position."""
    if attention.key_value_latent is not None:
        return attention.key_value_latent.down.shape[0]
    return attention.num_kv_heads * (attention.head_dim.size + attention.value_dim.size)


def _mean_keys(attention: Attention, tokens: int) -> float:
    """How many keys a query is compared with, averaged over a sequence."""
    if not attention.causal:
        half = tokens if attention.window is None else min(tokens, attention.window // 2)
        return sum(min(tokens, place + half + 1) - max(0, place - half) for place in range(tokens)) / tokens
    window = tokens if attention.window is None else min(tokens, attention.window)
    return window - window * window / (2 * tokens)


def _position_scores(body: Anatomy, attention: Attention) -> int:
    """Products per token of scores against projected relative positions; the projections are made once per batch."""
    table = body.around.get("relative_positions")
    if not isinstance(table, Weight):
        return 0
    return attention.position_kinds * attention.num_heads * attention.head_dim.size * table.shape[0]


def _around(body: Anatomy, tokens: int) -> float:
    """FLOPs per sequence of the linear maps and convolutions outside of the blocks, the head apart."""
    made, total = tokens - body.own_tokens, 0.0
    per = {part.role: part.per for part in body.shape.around}
    for role, part in reversed(body.around.items()):
        times = per[role.rstrip("0123456789").removesuffix(".")]
        if not isinstance(part, Weight) or part.kind != "linear" or times is None:
            continue
        total += 2 * part.numel() * (made if times == "token" else 1)
        if isinstance(part.owner, nn.Conv1d):
            # What a convolution reads, the one before it has made.
            kernel, stride, padding = part.owner.kernel_size[0], part.owner.stride[0], part.owner.padding[0]
            made = (made - 1) * stride + kernel - 2 * int(padding)
    return total
