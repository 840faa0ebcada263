"""Sparse attention: all ways equal the dense mask, and indices equal plain loops."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from pomona.runtime import sparse_attention as room
from pomona.runtime.sparse_attention import ROWS, Way, best_way, can_compile, compiled, flex_mask, sparse_attention
from pomona.runtime.sparse_patterns import (
    BLOCK,
    AShape,
    BlockSparse,
    Kept,
    Pattern,
    VerticalSlash,
    block_means,
    diagonal_sums,
    last_attention,
)

PATTERNS: tuple[Pattern, ...] = (
    AShape(initial=3, local=130),
    AShape(initial=0, local=1),
    VerticalSlash(vertical=35, slash=110),
    BlockSparse(blocks=2),
)


def numbers(heads: int, tokens: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(heads, tokens, width, generator=draw).to(torch.bfloat16).to(dtype)


def masked(query: Tensor, key: Tensor, value: Tensor, kept: list[Kept], scaling: float) -> Tensor:
    """The definition: softmax over the dense mask, in float64."""
    groups = len(query) // len(key)
    key, value = (each.double().repeat_interleave(groups, 0) for each in (key, value))
    seen = torch.stack([own.mask() for own in kept])
    scores = (query.double() @ key.transpose(1, 2) * scaling).masked_fill(~seen, -torch.inf)
    return scores.softmax(2) @ value


@pytest.mark.parametrize("tokens", [50, 64, 300, 449])
@pytest.mark.parametrize("way", ["gathered", "compiled", "flex"])
def test_every_way_is_the_masked_softmax(way: Way, tokens: int) -> None:
    """Catches a tile, column or edge that is left out or counted twice: lengths around blocks, shared key heads."""
    if way == "compiled" and not can_compile():
        pytest.skip("no compiler, or no bf16 dot products")
    query, key, value = numbers(4, tokens, 32), numbers(2, tokens, 32, 1), numbers(2, tokens, 32, 2)
    kept = [pattern.find(query[head], key[head // 2], 0.3) for head, pattern in enumerate(PATTERNS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # flex_attention warns where it is not compiled, as here on a processor
        found = sparse_attention(query, key, value, kept, 0.3, way)
    expected = masked(query, key, value, kept, 0.3)
    error = float((found - expected).norm() / expected.norm())
    assert error < (5e-3 if way == "compiled" else 1e-6)


@pytest.mark.parametrize("width", [16, 80, 128])
def test_compiled_head_sizes(width: int) -> None:
    """Catches a panel of head features that the kernel leaves out."""
    if not can_compile():
        pytest.skip("no compiler, or no bf16 dot products")
    query, key, value = (numbers(1, 200, width, seed) for seed in range(3))
    kept = [VerticalSlash(vertical=40, slash=60).find(query[0], key[0], 0.1)]
    expected = masked(query, key, value, kept, 0.1)
    assert float((compiled(query, key, value, kept, 0.1) - expected).norm() / expected.norm()) < 5e-3


def test_scores_that_grow_along_the_row() -> None:
    """Catches sums that are not rescaled when a later tile holds larger scores."""
    if not can_compile():
        pytest.skip("no compiler, or no bf16 dot products")
    query, value = numbers(1, 400, 32), numbers(1, 400, 32, 1)
    key = query * torch.linspace(60, 0.1, 400)[:, None]
    kept = [AShape(initial=0, local=400).find(query[0], key[0], 1.0)]
    expected = masked(query, key.to(torch.bfloat16), value, kept, 1.0)
    assert float((compiled(query, key, value, kept, 1.0) - expected).norm() / expected.norm()) < 5e-3


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.shape)
def test_masks_are_causal_and_keep_the_own_key(pattern: Pattern) -> None:
    """Catches a look ahead, and a row that sees nothing."""
    query, key = numbers(1, 333, 16)[0], numbers(1, 333, 16, 1)[0]
    mask = pattern.find(query, key, 0.25).mask()
    assert not bool(mask.triu(1).any()) and bool(mask.diagonal().all())


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.shape)
def test_tiles_hold_the_mask(pattern: Pattern) -> None:
    """Catches a rounding to blocks that loses pairs: what is no column lies in a tile, and tiles hold something."""
    query, key = numbers(1, 333, 16)[0], numbers(1, 333, 16, 1)[0]
    kept = pattern.find(query, key, 0.25)
    mask, tiles = kept.mask(), kept.tiles()
    mask[:, kept.columns] = False
    places = torch.arange(333) // BLOCK
    held = torch.zeros_like(tiles)
    held[places[:, None].expand_as(mask)[mask], places.expand_as(mask)[mask]] = True
    assert bool((tiles | ~held).all())
    width, blocks = flex_mask([kept])
    dense = blocks.to_dense()[0, 0].bool()
    full = kept.mask()
    for row in range(0, 333, 50):
        for column in full[row].nonzero()[:, 0].tolist():
            places_of = [(width + column) // ROWS]
            if column in kept.columns.tolist():
                places_of.append(kept.columns.tolist().index(column) // ROWS)
            assert any(dense[row // ROWS, place] for place in places_of)


def test_diagonal_sums_by_loops() -> None:
    """Catches a slip of the slanted view by one place."""
    attention = torch.rand(5, 12, generator=torch.Generator().manual_seed(0))
    attention[:, 7:] = attention[:, 7:].tril()
    expected = torch.zeros(12)
    for row in range(5):
        for key in range(12):
            if (distance := 7 + row - key) >= 0:
                expected[distance] += attention[row, key]
    torch.testing.assert_close(diagonal_sums(attention), expected)


def test_the_estimate_is_causal() -> None:
    """Catches a missing mask in the corner: the last keys are seen by fewer of the last queries."""
    query, key = numbers(1, 200, 16)[0], numbers(1, 200, 16, 1)[0]
    columns, distances = last_attention(query, key, 0.25)
    scores = (query @ key.T * 0.25).masked_fill(torch.ones(200, 200).bool().triu(1), -torch.inf).softmax(1)[-64:]
    torch.testing.assert_close(columns, scores.sum(0))
    torch.testing.assert_close(distances.sum(), torch.tensor(64.0))


def test_larger_budgets_keep_more() -> None:
    """Catches a choice that is not nested, and budgets below the least that are taken at their word."""
    query, key = numbers(1, 500, 16)[0], numbers(1, 500, 16, 1)[0]
    before = VerticalSlash(vertical=1, slash=1).find(query, key, 0.25)
    assert len(before.columns) == 30 and int(before.distances.sum()) == 50
    for vertical, slash in ((30, 110), (60, 110), (60, 200), (500, 200)):
        after = VerticalSlash(vertical=vertical, slash=slash).find(query, key, 0.25)
        assert not bool((before.mask() & ~after.mask()).any()) and after.cost() >= before.cost()
        before = after
    assert bool((before.mask() == torch.ones(500, 500).bool().tril()).all())


def test_block_means_leave_padding_out() -> None:
    """Catches zeros that pull the mean of the last block down, and a block too many."""
    rows = torch.ones(130, 2)
    torch.testing.assert_close(block_means(rows), torch.ones(3, 2))
    assert len(block_means(rows[:128])) == 2


def test_costs_by_hand() -> None:
    """Catches a cost that ignores columns, or counts tiles of a band twice."""
    tokens = 4 * BLOCK
    band = AShape(initial=0, local=BLOCK + 1).find(torch.zeros(tokens, 1), torch.zeros(tokens, 1), 1.0)
    assert band.cost() == 4 + 3  # distance 64 reaches exactly one block back
    wider = AShape(initial=0, local=BLOCK + 2).find(torch.zeros(tokens, 1), torch.zeros(tokens, 1), 1.0)
    assert wider.cost() == 4 + 3 + 2
    columns = AShape(initial=2, local=1).find(torch.zeros(tokens, 1), torch.zeros(tokens, 1), 1.0)
    assert columns.cost() == 4 + 3 and columns.pairs() == 2 * (tokens - 2) + 1 + tokens - 2 + 2 - 2 + 2


def test_the_way_follows_dtype_and_device() -> None:
    """Catches float32 models that are silently rounded to bf16."""
    assert best_way(numbers(1, 4, 32)) == "gathered"
    short = numbers(1, 4, 32, dtype=torch.bfloat16)
    assert best_way(short) == ("compiled" if can_compile() else "gathered")
    assert best_way(numbers(1, 4, 20, dtype=torch.bfloat16)) == "gathered"


@pytest.mark.gpu
def test_flex_on_a_gpu() -> None:
    """Catches a block mask that the compiled kernel reads otherwise than the plain one."""
    query, key, value = (numbers(2, 700, 64, seed).cuda() for seed in range(3))
    kept = [pattern.find(query[0], key[0], 0.125) for pattern in (PATTERNS[0], PATTERNS[2])]
    found = room.flex(query, key, value, kept, 0.125)
    torch.testing.assert_close(found.double(), masked(query, key, value, kept, 0.125), rtol=1e-2, atol=1e-2)
