"""Cache policies: dense where the budget covers everything, bounds, bytes, and what each keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pomona.examination.scbench.policies import CachePolicy, Dense, Kept, Kivi, Quest, SnapKV, Streaming


def numbers(heads: int, tokens: int, width: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(heads, tokens, width, generator=torch.Generator().manual_seed(seed))


def seen_by(policy: CachePolicy, tokens: int = 100, later: int = 3) -> tuple[Tensor, Tensor, Tensor | None]:
    """What three queries after a first pass find: two key heads for four query heads."""
    query, key, value = (
        numbers(4, tokens + later),
        numbers(2, tokens + later, seed=1),
        numbers(2, tokens + later, seed=2),
    )
    kept = Kept()
    policy.first(kept, query[:, :tokens], key[:, :tokens], 0.25)
    return policy.view(kept, query[:, tokens:], key, value)


@pytest.mark.parametrize(
    "policy",
    [Streaming(initial=0, local=103), SnapKV(capacity=100), Quest(budget=112), Kivi(bits=16), Kivi(residual=103)],
    ids=lambda policy: policy.policy,
)
def test_whole_budgets_are_dense(policy: CachePolicy) -> None:
    """Catches a policy that loses something though it may keep everything."""
    dense = seen_by(Dense())
    key, value, seen = seen_by(policy)
    assert torch.equal(key, dense[0]) and torch.equal(value, dense[1])
    if seen is not None:
        places = torch.arange(103)
        earlier = places <= torch.arange(100, 103)[:, None]
        assert bool((seen | ~earlier).all())


def test_streaming_by_hand() -> None:
    """Catches a window that is off by one, or does not move on."""
    _, _, seen = seen_by(Streaming(initial=2, local=3))
    assert seen is not None
    assert seen[0, 0].nonzero()[:, 0].tolist()[:5] == [0, 1, 98, 99, 100]
    assert bool(seen[0, 2, 100:103].all()) and not bool(seen[0, 2, 99])


def test_snapkv_keeps_what_the_window_looks_at() -> None:
    """Catches votes of other queries, a window that is lost, and later tokens that are."""
    query, key = 0.01 * numbers(4, 60), 0.01 * numbers(2, 60, seed=1)
    query[:, -1, 0] = 30.0
    key[:, 17, 0] = 3.0
    kept = Kept()
    policy = SnapKV(window=4, capacity=9, kernel=1)
    policy.first(kept, query, key, 1.0)
    assert kept.chosen is not None and kept.chosen.sum(1).tolist() == [9, 9]
    assert bool(kept.chosen[:, 17].all() and kept.chosen[:, -4:].all())
    longer = torch.cat([key, key[:, :5]], 1)
    _, _, seen = policy.view(kept, query[:, :2], longer, longer)
    assert seen is not None and seen.shape == (4, 1, 65) and bool(seen[..., 60:].all())


def test_quest_bounds_are_bounds() -> None:
    """Catches minima and maxima that changed places: no product in a page is above its bound, some reach it."""
    query, key = numbers(4, 5), numbers(2, 50, seed=1)
    bounds = Quest().bounds(query, key)
    products = query @ key.repeat_interleave(2, 0).transpose(1, 2)
    for page in range(4):
        assert bool((products[..., 16 * page : 16 * page + 16] <= bounds[..., page : page + 1] + 1e-5).all())
    same = key[:, :1].expand(-1, 16, -1)
    torch.testing.assert_close(Quest().bounds(query, same)[..., 0], (query @ same.repeat_interleave(2, 0).mT)[..., 0])


def test_quest_looks_at_its_budget_and_at_its_own_page() -> None:
    """Catches pages of the future, and too many of them."""
    _, _, seen = seen_by(Quest(page=8, budget=24))
    assert seen is not None and seen.shape == (4, 3, 103)
    assert bool((seen.sum(-1) <= 24).all()) and bool(seen[:, 0, 100].all())


def test_kivi_rounds_keys_by_channel_and_values_by_token() -> None:
    """Catches the axes changed, and latest tokens that are rounded: a channel of its own scale costs nothing."""
    query, key = numbers(1, 1), torch.zeros(1, 64, 32)
    key[..., 3] = 100.0  # constant in its channel
    key[..., 5] = torch.arange(64.0) % 4 / 3  # four levels
    value = torch.zeros(1, 64, 32)
    value[:, 7] = 50.0
    new_key, new_value, seen = Kivi(residual=0).view(Kept(), query, key, value)
    torch.testing.assert_close(new_key, key)
    torch.testing.assert_close(new_value, value)
    assert seen is None
    rough = numbers(1, 64, 32, seed=3)
    changed = (Kivi(residual=10).view(Kept(), query, rough, rough)[0] != rough).any(-1)[0]
    assert changed.tolist() == [True] * 32 + [False] * 32


@pytest.mark.parametrize("policy", [Streaming(initial=4, local=60), SnapKV(capacity=64)], ids=lambda p: p.policy)
def test_bytes_stop_growing(policy: CachePolicy) -> None:
    """Catches bytes that grow beyond the capacity."""
    assert policy.bytes(64, 2, 16) == policy.bytes(10_000, 2, 16) == Dense().bytes(64, 2, 16)


def test_bytes_that_grow() -> None:
    """Catches a count without scales and page bounds: quest keeps more than dense, kivi about a sixth."""
    dense = Dense().bytes(32_000, 2, 64)
    assert Quest().bytes(32_000, 2, 64) == dense * 17 // 16
    assert dense / 6 < Kivi().bytes(32_000, 2, 64) < dense / 4
    assert Kivi(bits=16).bytes(100, 2, 64) == Dense().bytes(100, 2, 64)


def test_budgets_in_proportion() -> None:
    """Catches a scaled policy that keeps nothing."""
    assert Streaming().scaled(1 / 32) == Streaming(initial=4, local=124)
    assert SnapKV().scaled(1e-9).capacity == 32 and Quest().scaled(1e-9).budget == 16
