"""Attention written out: scores, softmax, weighted values as batched products, with its own backward pass.

Why not the fused kernel: on a processor it gains nothing from bf16. Written out, forward and backward in bf16 take a
third of its time at 256 tokens and less than half at 1024. Only the probabilities are kept for the backward pass, and
causal attention skips the keys that no query of a block can see.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

QUERIES_AT_ONCE = 256
"""Queries per block. Smaller blocks skip more hidden keys but make slower products; measured best at 512 and 1024."""


def explicit_attention(
    query_BNTH: Tensor,
    key_BNSH: Tensor,
    value_BNSH: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scaling * Q K^T + mask) V, differentiable in all four.

    Args:
        query_BNTH, key_BNSH, value_BNSH: one dtype; heads already repeated for grouped queries.
        mask: None, or what is added to the scores: broadcastable to (B, N, T, S), in the dtype of the queries.
        causal: query t of T sees keys up to S - T + t. Not together with a mask.
        scaling: factor of the scores.
        dropout: probability with which a probability is dropped, in [0, 1).
    Returns:
        (B, N, T, H), contiguous.
    """
    batch, heads, queries, width = query_BNTH.shape
    keys = key_BNSH.shape[2]
    query = query_BNTH.reshape(batch * heads, queries, width)
    key = key_BNSH.reshape(batch * heads, keys, width)
    value = value_BNSH.reshape(batch * heads, keys, -1)
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    if dropout > 0.0 or (mask is not None and mask.requires_grad):
        out = _by_autograd(query, key, value, mask, heads, causal, scaling, dropout)
    else:
        out = _Explicit.apply(query, key, value, mask, heads, causal, scaling)  # type: ignore[no-untyped-call]
    return out.view(batch, heads, queries, -1)


def hidden_keys(queries: int, keys: int, first: int, like: Tensor) -> Tensor:
    """(queries, keys) to be added to the scores of queries `first`, `first` + 1, ...: the lowest number where hidden.

    The lowest number and not -inf, so that a query which sees nothing gives a mean instead of NaN.
    """
    lowest = torch.finfo(like.dtype).min
    return torch.full((queries, keys), lowest, dtype=like.dtype, device=like.device).triu(first + 1)


def _by_autograd(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    heads: int,
    causal: bool,
    scaling: float,
    dropout: float,
) -> Tensor:
    """The same in plain operations: for dropout and for masks with a gradient (a learned position bias)."""
    scores = torch.bmm(query * scaling, key.transpose(1, 2))
    queries, keys = scores.shape[1:]
    if causal:
        scores = scores + hidden_keys(queries, keys, keys - queries, scores)
    elif mask is not None:
        scores = (scores.view(-1, heads, queries, keys) + mask).view(-1, queries, keys)
    probabilities = nn.functional.dropout(torch.softmax(scores, -1), p=dropout)
    return torch.bmm(probabilities, value)


class _Explicit(torch.autograd.Function):
    """(M, T, H) attention over M = batch * heads, one block of queries after another."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        heads: int,
        causal: bool,
        scaling: float,
    ) -> Tensor:
        blocks = _blocks(query.shape[1], key.shape[1], causal)
        kept, outs = [], []
        for start, stop, seen in blocks:
            rows, columns = query[:, start:stop], key[:, :seen].transpose(1, 2)
            if causal:
                hidden = hidden_keys(stop - start, seen, seen - (stop - start), query)
                scores = torch.baddbmm(hidden, rows, columns, alpha=scaling)
            else:
                scores = torch.bmm(rows * scaling, columns)
                if mask is not None:
                    part = mask if mask.shape[2] == 1 else mask[:, :, start:stop]
                    scores.view(-1, heads, stop - start, seen).add_(part)
            # The processor's softmax computes in float32 and rounds once, whatever the dtype of the scores.
            probabilities = torch.softmax(scores, -1) if _compiling() else torch.softmax(scores, -1, out=scores)
            if any(ctx.needs_input_grad):
                kept.append(probabilities)
            outs.append(torch.bmm(probabilities, value[:, :seen]))
        ctx.save_for_backward(query, key, value, *kept)
        ctx.blocks, ctx.scaling = blocks, scaling
        return outs[0] if len(outs) == 1 else torch.cat(outs, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        grads_query: list[Tensor] = []
        grad_key = grad_value = None
        # The last block sees every key, so it lays the sums that the earlier ones add to.
        for (start, stop, seen), probabilities in reversed(list(zip(ctx.blocks, kept, strict=True))):
            rows = grad[:, start:stop]
            grad_scores = torch.bmm(rows, value[:, :seen].transpose(1, 2))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_scores, probabilities, -1, probabilities.dtype)
            grads_query.insert(0, torch.bmm(grad_scores, key[:, :seen]).mul_(ctx.scaling))
            key_part = torch.bmm(grad_scores.transpose(1, 2), query[:, start:stop])
            value_part = torch.bmm(probabilities.transpose(1, 2), rows)
            if grad_key is None or grad_value is None:
                grad_key, grad_value = key_part, value_part
            else:
                grad_key[:, :seen] += key_part
                grad_value[:, :seen] += value_part
        assert grad_key is not None
        grad_query = grads_query[0] if len(grads_query) == 1 else torch.cat(grads_query, 1)
        return grad_query, grad_key.mul_(ctx.scaling), grad_value, None, None, None, None


def _blocks(queries: int, keys: int, causal: bool) -> list[tuple[int, int, int]]:
    """(first query, last query + 1, number of keys that the block sees), in order."""
    starts = range(0, queries, QUERIES_AT_ONCE)
    stops = [min(start + QUERIES_AT_ONCE, queries) for start in starts]
    return [(a, b, keys - queries + b if causal else keys) for a, b in zip(starts, stops, strict=True)]


def _compiling() -> bool:
    return torch.compiler.is_compiling()
