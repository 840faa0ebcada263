"""Probes of attention scores: their factor, their cap, norms of queries and keys, and which features turn.

The projections' outputs are replaced by numbers of our own: all keys and values are zero but one. Then each head gives
that value times its probability, exp(s) / (exp(s) + the number of other keys seen), and so its score s is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import torch
from torch import Tensor

from pomona.anatomy.block import Attention
from pomona.anatomy.body import Anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.check import Check, equal
from pomona.anatomy.probes.lab import PLACE, at_tokens, attentions_of, lengths_of, normalize, read_by, replaced
from pomona.anatomy.taps import replace_outputs
from pomona.anatomy.weight import Norm

EARLIER = 1
"""Position of the key when it is tried how scores depend on the distance."""
LOUD = 30.0
"""Size of queries and keys then, so that even the slowest rotation shows."""


def probe_scores(body: Anatomy) -> Iterator[Check]:
    """A query and a key at one position, which no rotation tells apart, have the score that is declared."""
    inputs = example_inputs(body, batch=1)
    for block, attention, _ in attentions_of(body):
        if not _can_be_tried(attention):
            continue
        generator = torch.Generator().manual_seed(6)
        query = torch.randn(attention.query.shape[0], generator=generator, dtype=torch.float64)
        key = torch.randn(attention.key.shape[0], generator=generator, dtype=torch.float64)
        found = _probability(body, attention, inputs, query, key, PLACE)[0]
        score = attention.scaling * _compared(attention, query, key)
        if attention.softcap is not None:
            score = attention.softcap * torch.tanh(score / attention.softcap)
        others = _seen(body, attention, inputs) - 1
        yield equal("scores", f"{block.path}: {attention.query.role}", found, score.exp() / (score.exp() + others))


def probe_rotary(body: Anatomy) -> Iterator[Check]:
    """The declared number of features turns with the distance, the others do not; with a shared key, the last ones."""
    for block, attention, _ in attentions_of(body):
        if not _can_be_tried(attention):
            continue
        # Row f of the batch has feature f alone in the queries and all others in the keys: they meet if they turn.
        width = attention.head_dim.size
        inputs = example_inputs(body, batch=width)
        query = LOUD * torch.eye(width, dtype=torch.float64)
        key = LOUD * (torch.ones_like(query) - torch.eye(width, dtype=torch.float64))
        own = attention.key.shape[0] // attention.num_kv_heads
        shared = None if own == width else key[:, own:]
        query, key = query.repeat(1, attention.num_heads), key[:, :own].repeat(1, attention.num_kv_heads)
        found = _probability(body, attention, inputs, query, key, EARLIER, shared)
        seen = _seen(body, attention, inputs)
        turned = ((found * seen - 1).abs().amax(-1) > 1e-6).nonzero().flatten().tolist()
        first = 0 if shared is None else own
        passed = turned == list(range(first, first + attention.rotary))
        yield Check("rotary", f"{block.path}: {attention.query.role}", passed, f"features {turned} of {width} turn")


def _can_be_tried(attention: Attention) -> bool:
    """Whether keys of zeros stay zeros."""
    norm = attention.key_norm
    return norm is None or (norm.kind == "rms" and norm.bias is None)


def _seen(body: Anatomy, attention: Attention, inputs: dict[str, Tensor]) -> int:
    """Number of keys that the query at `PLACE` sees."""
    keys = lengths_of(body, attention, inputs)[1]
    return sum(attention.sees(PLACE, place) for place in range(keys))


def _compared(attention: Attention, query: Tensor, key: Tensor) -> Tensor:
    """(N,) products of each head's query with its own key, after the norms that are declared."""
    heads = _normalized(attention.query_norm, query, attention.num_heads)
    keys = _normalized(attention.key_norm, key, attention.num_kv_heads)
    keys = keys.repeat_interleave(attention.num_heads // attention.num_kv_heads, 0)
    return (heads[:, : keys.shape[1]] * keys).sum(-1)


def _normalized(norm: Norm | None, vector: Tensor, heads: int) -> Tensor:
    """(heads, H)"""
    if norm is not None:
        rows = vector.view(1 if norm.gain.numel() == vector.numel() else heads, -1)
        vector = normalize(norm, rows).flatten()
    return vector.view(heads, -1)


def _probability(
    body: Anatomy,
    attention: Attention,
    inputs: dict[str, Tensor],
    query: Tensor,
    key: Tensor,
    place: int,
    shared: Tensor | None = None,
) -> Tensor:
    """(batch, N) probabilities with which the query at `PLACE` takes the value at `place`.

    A key that all heads share is `shared` there, or zero. Bias tables are zero, and so is what is projected of relative
    positions.
    """
    values = torch.ones(attention.value.shape[0], dtype=torch.float64)
    tables = [stack.bias_table for stack in body.stacks] + [block.attention.bias_table for block in body.blocks]
    positions = [weight for weight in (attention.position_query, attention.position_key) if weight is not None]
    with ExitStack() as open_:
        open_.enter_context(replaced(*[(t, torch.zeros(t.shape)) for t in tables if t is not None]))
        queries_of = at_tokens(lambda rows: query[..., None, :].expand_as(rows), torch.zeros_like)
        open_.enter_context(replace_outputs(attention.query, queries_of))
        open_.enter_context(replace_outputs(attention.key, at_tokens(_only(place, key), torch.zeros_like)))
        if attention.key_value_latent is not None:
            vector = torch.zeros(attention.key_value_latent.down.shape[0], dtype=torch.float64)
            if shared is not None:
                vector = torch.cat([vector[: -shared.shape[-1]].expand(len(shared), -1), shared], -1)
            open_.enter_context(replace_outputs(attention.key_value_latent.down, _only(place, vector)))
        for weight in positions:
            open_.enter_context(replace_outputs(weight, torch.zeros_like))
        open_.enter_context(replace_outputs(attention.value, _only(place, values)))
        rows = read_by(body, attention.output, inputs)
    queries = lengths_of(body, attention, inputs)[0]
    return rows.view(-1, queries, attention.num_heads, attention.value_dim.size)[:, PLACE, :, 0]


def _only(place: int, vector: Tensor) -> Callable[[Tensor], Tensor]:
    """Outputs that are zero but at one position."""

    def change(rows: Tensor) -> Tensor:
        rows = torch.zeros_like(rows)  # (batch, T, outputs), or with one more axis of size 1 after the batch
        rows[..., place, :] = vector if rows.dim() == 3 or vector.dim() == 1 else vector[:, None]
        return rows

    return change
