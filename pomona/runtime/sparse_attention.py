"""Attention of a whole sequence to the keys that `Kept` names, in three ways that compute the same.

- compiled: `sparse.cpp`, on processors with bf16 dot products; bf16 numbers, exact masks, float32 sums.
- gathered: torch anywhere, in the dtype of the inputs; 128 queries at a time against the keys that one of them keeps.
- flex: torch's flex_attention on a GPU, the block mask laid out directly; the kept columns lie before the keys.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pomona.ground.kernels import NoKernel, build
from pomona.runtime.sparse_patterns import BLOCK, Kept

SOURCE = Path(__file__).with_name("sparse.cpp")
ROWS = 128
"""Queries that `gathered` handles at once, and the sides of flex's blocks."""
WIDEST = 256
"""Head sizes up to this, and multiples of 16, run compiled."""
GROUP = 16
"""Queries or keys that the compiled kernel handles together."""

Way = Literal["compiled", "gathered", "flex"]


def sparse_attention(
    query_NTH: Tensor, key_KTH: Tensor, value_KTH: Tensor, kept: Sequence[Kept], scaling: float, way: Way | None = None
) -> Tensor:
    """softmax over the kept keys alone, times the values.

    Args:
        query_NTH, key_KTH, value_KTH: one dtype; N / K query heads share a key-value head, in equal runs.
        kept: of each query head. Each query keeps its own key.
        scaling: factor of the products.
        way: by default flex on a GPU, compiled for bf16 where it can be, else gathered.
    Returns:
        (N, T, H) in the dtype of the queries; without gradient.
    """
    way = way or best_way(query_NTH)
    with torch.no_grad():
        return {"compiled": compiled, "gathered": gathered, "flex": flex}[way](
            query_NTH, key_KTH, value_KTH, kept, scaling
        )


def best_way(query_NTH: Tensor) -> Way:
    """See `sparse_attention`."""
    if query_NTH.device.type == "cuda":
        return "flex"
    width = query_NTH.shape[2]
    short = query_NTH.device.type == "cpu" and query_NTH.dtype == torch.bfloat16
    return "compiled" if short and width % 16 == 0 and width <= WIDEST and can_compile() else "gathered"


def gathered(query_NTH: Tensor, key_KTH: Tensor, value_KTH: Tensor, kept: Sequence[Kept], scaling: float) -> Tensor:
    """In torch: for some queries at a time, products with the keys that any of them keeps, masked exactly."""
    heads, tokens, _ = query_NTH.shape
    groups = heads // len(key_KTH)
    out = query_NTH.new_empty(heads, tokens, value_KTH.shape[2])
    wide = torch.promote_types(query_NTH.dtype, torch.float32)
    for head, own in enumerate(kept):
        key, value = key_KTH[head // groups], value_KTH[head // groups]
        for start in range(0, tokens, ROWS):
            rows = slice(start, min(start + ROWS, tokens))
            mask = own.mask(rows)
            keys = mask.any(0).nonzero()[:, 0]
            scores = (query_NTH[head, rows] @ key[keys].T).to(wide) * scaling
            weights = scores.masked_fill(~mask[:, keys], -torch.inf).softmax(1)
            out[head, rows] = weights.to(value.dtype) @ value[keys]
    return out


# ---- compiled


class _Call(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "out", "kv_head", "first_step", "steps")),
        *((name, ctypes.c_void_p) for name in ("first_block", "listed", "first_column", "columns", "seen_keys")),
        ("distances", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "tokens", "width", "groups", "span")),
        ("distance_bytes", ctypes.c_int64),
        ("scaling", ctypes.c_float),
        ("threads", ctypes.c_int32),
    )


@cache
def library() -> ctypes.CDLL:
    """The compiled kernel. Raises `NoKernel` without a compiler or where the processor lacks the instructions."""
    loaded = build(SOURCE)
    if not loaded.pomona_layout():
        raise NoKernel("the processor has no bf16 dot products (AVX512-BF16)")
    assert loaded.pomona_layout() == ctypes.sizeof(_Call), "sparse.cpp and sparse_attention.py disagree"
    return loaded


def can_compile() -> bool:
    """Whether the compiled kernel runs on this machine."""
    try:
        library()
    except NoKernel:
        return False
    return True


def compiled(query_NTH: Tensor, key_KTH: Tensor, value_KTH: Tensor, kept: Sequence[Kept], scaling: float) -> Tensor:
    """By `sparse.cpp`; other dtypes are rounded to bf16 first."""
    kernel, dtype = library(), query_NTH.dtype
    query, key, value = (each.to(torch.bfloat16).contiguous() for each in (query_NTH, key_KTH, value_KTH))
    heads, tokens, width = query.shape
    out = torch.empty_like(query)
    arrays = index_of(kept)
    arrays["kv_head"] = (np.arange(heads) * len(key) // heads).astype(np.int32)
    addresses: dict[str, Any] = {name: array.ctypes.data for name, array in arrays.items()}
    addresses |= {
        name: each.data_ptr()
        for name, each in zip(("query", "key", "value", "out"), (query, key, value, out), strict=True)
    }
    call = _Call(
        **addresses,
        heads=heads,
        kv_heads=len(key),
        tokens=tokens,
        width=width,
        groups=-(-tokens // GROUP),
        span=-(-tokens // BLOCK) * BLOCK,
        distance_bytes=arrays["distances"].shape[1],
        scaling=scaling,
        threads=torch.get_num_threads(),
    )
    kernel.pomona_sparse_prefill(ctypes.byref(call))
    return out.to(dtype)


def index_of(kept: Sequence[Kept]) -> dict[str, Any]:
    """What the kernel is told about each head.

    Distances become the steps, in groups of 16, from a group of queries back to the groups of keys that it reads: the
    same for all groups. Blocks become a list for each block of queries, its own first. A head has one or the other.
    """
    tokens = kept[0].tokens
    groups, blocks = -(-tokens // GROUP), -(-tokens // BLOCK)
    span = blocks * BLOCK
    seen = np.zeros((len(kept), groups * GROUP), dtype=bool)
    distances = np.zeros((len(kept), span + 2 * BLOCK), dtype=bool)
    steps, listed, lengths, columns = [], [], [], []
    for head, own in enumerate(kept):
        columns.append(own.columns.numpy().astype(np.int32))
        seen[head, columns[-1]] = True
        far = np.flatnonzero(own.distances.numpy())
        distances[head, span - far] = True
        # Distance 16 d + r is d steps back for most queries of a group, and d + 1 for the first r.
        back = np.zeros(groups + 1, dtype=bool)
        back[far // GROUP] = True
        back[far[far % GROUP > 0] // GROUP + 1] = True
        steps.append(np.flatnonzero(back[:groups]))
        if own.blocks is None:
            lengths.append(np.zeros(blocks, dtype=np.int64))
            continue
        from_here = np.flip(np.tril(own.blocks.numpy()), 1)  # backwards: the own block comes first
        _, place = np.nonzero(from_here)
        listed.append(blocks - 1 - place)
        lengths.append(from_here.sum(1))
    packed = np.packbits(distances, axis=1, bitorder="little")
    nothing = np.zeros(1, dtype=np.int32)
    return {
        "first_step": starts([len(each) for each in steps]),
        "steps": np.concatenate([*steps, nothing]).astype(np.int32),
        "first_block": starts(np.concatenate(lengths)),
        "listed": np.concatenate([*listed, nothing]).astype(np.int32),
        "first_column": starts([len(each) for each in columns]),
        "columns": np.concatenate([*columns, nothing]),
        "seen_keys": np.packbits(seen, axis=1, bitorder="little"),
        "distances": np.pad(packed, ((0, 0), (0, 16))),  # the kernel reads four bytes at once
    }


def starts(lengths: Any) -> Any:
    """Where each run of these lengths begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


# ---- flex


def flex(query_NTH: Tensor, key_KTH: Tensor, value_KTH: Tensor, kept: Sequence[Kept], scaling: float) -> Tensor:
    """By flex_attention, compiled on a GPU. Columns are copied before the keys, so that they fill whole blocks."""
    from torch.nn.attention.flex_attention import flex_attention

    groups = len(query_NTH) // len(key_KTH)
    key, value = (each.repeat_interleave(groups, 0) for each in (key_KTH, value_KTH))
    width, block_mask = flex_mask(kept)
    places = torch.stack([_filled(own.columns, width, 0) for own in kept])[..., None]
    key, value = (
        torch.cat([each.gather(1, places.expand(-1, -1, each.shape[2])), each], 1)[None] for each in (key, value)
    )
    run = _compiled_flex() if query_NTH.device.type == "cuda" else flex_attention
    made: Tensor = run(query_NTH[None], key, value, block_mask=block_mask, scale=scaling)
    return made[0]


def flex_mask(kept: Sequence[Kept]) -> tuple[int, Any]:
    """The number of places before the keys, and flex's BlockMask over (places, keys), exact inside of its blocks."""
    from torch.nn.attention.flex_attention import BlockMask

    tokens, device = kept[0].tokens, kept[0].distances.device
    width = -(-max(len(own.columns) for own in kept) // ROWS) * ROWS
    columns = torch.stack([_filled(own.columns, width, tokens) for own in kept])  # absent ones come after all queries
    distances = torch.stack([own.distances for own in kept])
    blocks = torch.stack([own.blocks if own.blocks is not None else _none(own) for own in kept])

    def in_tiles(h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return distances[h, (q - k).clamp(min=0)] | blocks[h, q // BLOCK, k // BLOCK]

    def seen(b: Tensor, h: Tensor, q: Tensor, place: Tensor) -> Tensor:
        key = (place - width).clamp(min=0, max=tokens - 1)
        column = columns[h, place.clamp(max=max(width - 1, 0))] if width else torch.full_like(place, tokens)
        early = (column <= q) & ~in_tiles(h, q, column.clamp(max=tokens - 1))
        return torch.where(place < width, early, (key <= q) & in_tiles(h, q, key))

    rows = -(-tokens // ROWS)
    touched = torch.stack([_halved(own.tiles()) for own in kept])
    first = torch.where(columns < tokens, columns, 10**9).view(len(kept), -1, ROWS).amin(2)
    ends = (torch.arange(rows, device=device) + 1) * ROWS
    touched = torch.cat([first[:, None, :] < ends[:, None], touched], 2)[None]
    order = touched.int().argsort(dim=-1, descending=True, stable=True).int()
    number = touched.sum(-1).int()
    return width, BlockMask.from_kv_blocks(
        number, order, BLOCK_SIZE=ROWS, mask_mod=seen, seq_lengths=(tokens, width + tokens)
    )


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _filled(columns: Tensor, width: int, filling: int) -> Tensor:
    return torch.nn.functional.pad(columns, (0, width - len(columns)), value=filling)


def _none(own: Kept) -> Tensor:
    count = -(-own.tokens // BLOCK)
    return torch.zeros(count, count, dtype=torch.bool, device=own.distances.device)


def _halved(tiles: Tensor) -> Tensor:
    """Tiles of 64 as blocks of 128: those that hold one."""
    count = -(-len(tiles) // 2)
    padded = tiles.new_zeros(2 * count, 2 * count)
    padded[: len(tiles), : len(tiles)] = tiles
    return padded.view(count, 2, count, 2).any(3).any(1)
