"""The compiled step: against plain products, and against itself in other company."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pomona.ground import kernels
from pomona.runtime import native
from pomona.runtime.native import (
    BlockPlan,
    Linear,
    NativeStep,
    NoNativeStep,
    Normalization,
    Plan,
    screen_of,
    with_kernel_groups,
)
from pomona.runtime.packed import PackedWeight

D, F, V, N, K, H = 40, 88, 96, 4, 2, 10
"""No size fills a vector of 16 or a chunk of 128."""


def random_packed(rows: int, columns: int, group: int, generator: torch.Generator, zero: bool = True) -> PackedWeight:
    groups = -(-columns // group)
    words = torch.randint(-(2**31), 2**31 - 1, (rows, -(-columns // 8)), dtype=torch.int64, generator=generator)
    scale = 0.01 + 0.02 * torch.rand(rows, groups, generator=generator)
    zeros = torch.randint(-8, 8, (rows, groups), dtype=torch.int8, generator=generator) if zero else None
    return PackedWeight(words.to(torch.int32), scale, zeros, None, group, columns)


def make_plan(kind: str = "float32", seed: int = 0, blocks: int = 2) -> Plan:
    """A random decoder: `kind` is float32, bfloat16 or int4."""
    generator = torch.Generator().manual_seed(seed)

    def dense(*shape: int) -> Tensor:
        return 0.15 * torch.randn(*shape, generator=generator)

    def linear(rows: int, columns: int) -> Linear:
        bias = dense(rows)
        if kind == "int4":
            return Linear(random_packed(rows, columns, 8, generator), bias)
        return Linear(dense(rows, columns).to(getattr(torch, kind)), bias)

    def norm(size: int) -> Normalization:
        return Normalization(1 + dense(size), None, 1e-6, False)

    embedding = dense(V, D).to(torch.bfloat16 if kind == "bfloat16" else torch.float32)
    angles = torch.outer(torch.arange(64.0), torch.rand(H // 2, generator=generator)).repeat(1, 2)
    return Plan(
        blocks=[
            BlockPlan(
                norm_attention=norm(D),
                norm_ffn=norm(D),
                norm_query=norm(H),
                norm_key=norm(H),
                query=linear(N * H, D),
                key=linear(K * H, D),
                value=linear(K * H, D),
                output=linear(D, N * H),
                up=linear(F, D),
                gate=linear(F, D),
                down=linear(D, F),
            )
            for _ in range(blocks)
        ],
        embedding=embedding,
        positions=None,
        head=Linear(dense(V, D).to(embedding.dtype)),
        final_norm=norm(D),
        rotary=lambda length: (angles[:length].cos(), angles[:length].sin()),
        heads=N,
        kv_heads=K,
        head_dim=H,
        scaling=H**-0.5,
        activation="silu",
        max_positions=64,
    )


def reference(plan: Plan, tokens: list[int]) -> Tensor:
    """The same decoder in float64, written plainly: (T, V) logits."""

    def values(linear: Linear) -> Tensor:
        weight = linear.weight.dequantize() if isinstance(linear.weight, PackedWeight) else linear.weight
        return weight.double()

    def apply(linear: Linear, x: Tensor) -> Tensor:
        return x @ values(linear).T + (0 if linear.bias is None else linear.bias.double())

    def rms(norm: Normalization | None, x: Tensor) -> Tensor:
        assert norm is not None
        return x / (x.pow(2).mean(-1, keepdim=True) + norm.epsilon).sqrt() * norm.gain.double()

    def turn(x_TNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = x_TNH.shape[-1] // 2
        turned = torch.cat((-x_TNH[..., half:], x_TNH[..., :half]), dim=-1)
        return x_TNH * cos[:, None] + turned * sin[:, None]

    T = len(tokens)
    assert plan.rotary is not None
    cos, sin = (table.double() for table in plan.rotary(T))
    x = plan.embedding.double()[tokens]
    mask = torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)
    for block in plan.blocks:
        y = rms(block.norm_attention, x)
        q = turn(rms(block.norm_query, apply(block.query, y).view(T, N, H)), cos, sin)
        k = turn(rms(block.norm_key, apply(block.key, y).view(T, K, H)), cos, sin)
        v = apply(block.value, y).view(T, K, H)
        k, v = k.repeat_interleave(N // K, 1), v.repeat_interleave(N // K, 1)
        scores = torch.einsum("tnh,snh->nts", q, k) * plan.scaling + mask
        mixed = torch.einsum("nts,snh->tnh", scores.softmax(-1), v).reshape(T, N * H)
        x = x + apply(block.output, mixed)
        y = rms(block.norm_ffn, x)
        assert block.gate is not None
        x = x + apply(block.down, torch.nn.functional.silu(apply(block.gate, y)) * apply(block.up, y))
    return apply(plan.head, rms(plan.final_norm, x))


def logits_of(step: NativeStep, tokens: list[int], pieces: list[int] | None = None) -> Tensor:
    """All logits of a sequence that is fed in pieces of the given lengths."""
    cache = step.new_cache(1, len(tokens), torch.float32)
    parts, begin = [], 0
    for count in pieces or [len(tokens)]:
        rows = range(count)
        positions = range(begin, begin + count)
        parts.append(step.step(cache, tokens[begin : begin + count], [0] * count, positions, rows)[1].clone())
        begin += count
    return torch.cat(parts)


TOKENS = [5, 17, 3, 90, 41, 41, 8, 0, 95]


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int4"])
def test_computes_the_decoder(kind: str) -> None:
    """Catches: any wrong term. float32 activations on weights as stored: the error is float32's for every storage."""
    plan = make_plan(kind)
    expected = reference(plan, TOKENS)
    found = logits_of(NativeStep(plan, screen=False, threads=2), TOKENS)
    # A bfloat16 pair carries 16 bits of an input where weights are packed, a float32 carries 24.
    tolerance = 2e-4 if kind == "int4" else 2e-5
    assert float((found - expected).abs().max()) < tolerance * float(expected.std())


@pytest.mark.parametrize("group", [8, 16, 24, 32, 64, 128, 384, 1000])
@pytest.mark.parametrize("zero", [True, False])
def test_groups_of_every_size(group: int, zero: bool) -> None:
    """Catches: a scale or zero point of a neighbouring group; reading beyond the last group or word of a row."""
    generator = torch.Generator().manual_seed(group)
    columns = 440  # 3.4 chunks
    weight = random_packed(D, columns, group, generator, zero)
    fitted = with_kernel_groups(weight)
    assert fitted is not None
    plan = make_plan()
    first = plan.blocks[0]
    narrow = replace(
        first,
        up=Linear(0.1 * torch.randn(columns, D, generator=generator)),
        gate=Linear(0.1 * torch.randn(columns, D, generator=generator)),
        down=Linear(weight),
    )
    packed = replace(plan, blocks=[narrow])
    dense = replace(plan, blocks=[replace(narrow, down=Linear(weight.dequantize()))])
    theirs = logits_of(NativeStep(dense, screen=False), TOKENS)
    ours = logits_of(NativeStep(packed, screen=False), TOKENS)
    assert float((ours - theirs).abs().max()) < 2e-4 * float(theirs.std())


def test_bfloat16_scales_and_sorted_columns() -> None:
    """Catches: scales read with the wrong width, inputs not following the order of the columns."""
    generator = torch.Generator().manual_seed(3)
    plan = make_plan()
    weight = random_packed(D, F, 8, generator)
    order = torch.randperm(F, generator=generator).int()
    weight = replace(weight, scale=weight.scale.bfloat16(), order=order)
    block = plan.blocks[0]
    ours = replace(plan, blocks=[replace(block, down=Linear(weight))])
    theirs = replace(plan, blocks=[replace(block, down=Linear(weight.dequantize()))])
    gap = logits_of(NativeStep(ours, screen=False), TOKENS) - logits_of(NativeStep(theirs, screen=False), TOKENS)
    assert float(gap.abs().max()) < 2e-4


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int4"])
def test_numbers_do_not_depend_on_company(kind: str) -> None:
    """Catches: a sum whose order depends on threads, on the rows of a step or on other sequences. Bit for bit."""
    plan = make_plan(kind)
    one = NativeStep(plan, screen=False, threads=1)
    alone = logits_of(one, TOKENS)
    assert torch.equal(logits_of(one, TOKENS, [1] * len(TOKENS)), alone)
    assert torch.equal(logits_of(NativeStep(plan, screen=False, threads=3), TOKENS, [4, 5]), alone)
    cache = one.new_cache(3, 32, torch.float32)
    others = [[7, 7], [1, 2, 3, 4]]
    for slot, other in ((0, others[0]), (2, others[1])):
        one.step(cache, other, [slot] * len(other), range(len(other)), [])
    for position, token in enumerate(TOKENS):
        _, logits = one.step(cache, [9, token, 9], [0, 1, 2], [2 + position, position, 4 + position], [0, 1, 2])
        assert torch.equal(logits[1], alone[position])


@pytest.mark.parametrize("keep", [1, 5, V])
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_screening_changes_nothing(kind: str, keep: int) -> None:
    """Catches: a candidate that is lost, or an approximate logit that is returned. Many random heads and inputs."""
    for seed in range(12):
        plan = make_plan(kind, seed=seed, blocks=1)
        screened, whole = NativeStep(plan, threads=2), NativeStep(plan, screen=False, threads=2)
        exact = logits_of(whole, TOKENS)
        cache = screened.new_cache(1, len(TOKENS), torch.float32)
        rows = range(len(TOKENS))
        best, logits = screened.step(cache, TOKENS, [0] * len(TOKENS), rows, rows, keep)
        assert best == exact.argmax(-1).tolist()
        assert torch.equal(logits.topk(keep).values, exact.topk(keep).values)
        kept = logits != -torch.inf
        assert torch.equal(logits[kept], exact[kept])
        if keep == 1:
            assert not bool(kept.all())


def test_the_bound_of_the_screen_holds() -> None:
    """Catches: an error bound that is too small, which would lose tokens without a sign."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(500, 96, generator=generator) * torch.rand(500, 1, generator=generator)
    head[7] = 0
    codes, scale, error = screen_of(head)
    x = torch.randn(96, 200, generator=generator)
    gap = ((codes.float() * scale[:, None] - head) @ x).abs()
    assert bool((gap <= error[:, None] * x.norm(dim=0)).all())
    # Inputs along the rounding error itself reach the bound but for its margin.
    worst = head - codes.float() * scale[:, None]
    reached = (worst * worst).sum(1) / worst.norm(dim=1).clamp_min(1e-12)
    assert float((reached / error)[head.norm(dim=1) > 0].min()) > 0.99


def test_the_screen_keeps_a_token_that_rounding_hides() -> None:
    """Catches: comparing the copy's logit, and not what it can be at most, with what the best is at least."""
    plan = make_plan(blocks=1)
    block = plan.blocks[0]
    silent = replace(block, output=Linear(torch.zeros(D, N * H)), down=Linear(torch.zeros(D, F)))
    x = plan.embedding[5]
    x = x / (x.pow(2).mean() + 1e-6).sqrt() * plan.final_norm.gain
    codes = torch.randint(20, 60, (D,), generator=torch.Generator().manual_seed(0)).float() * x.sign()
    order = x.abs().argsort()
    codes[order[0]] = 127  # the same scale for both rows, whatever else they hold
    free = order[1:]
    steps = torch.zeros(D)
    steps[free] = x.sign()[free]
    # Token 1 is best, and rounding takes 0.49 of a code from each of its entries; token 2 gains as much and seems best.
    first, second = codes + 0.49 * steps, codes - 0.49 * steps + steps
    dropped = next(i for i in free.tolist() if x[i].abs() > 0.02 * (x[free].abs().sum()))
    second[dropped] -= steps[dropped]
    head = torch.zeros(V, D)
    head[1], head[2] = 0.01 * first, 0.01 * second
    assert float(head[1] @ x) > float(head[2] @ x)
    made = replace(plan, blocks=[silent], head=Linear(head))
    step = NativeStep(made, threads=2)
    best, _ = step.step(step.new_cache(1, 1, torch.float32), [5], [0], [0], [0], 1)
    assert best == [1]


def test_long_contexts_and_small_caches() -> None:
    """Catches: a cache that is not divided by slots, a softmax that overflows; bfloat16 keys cost little."""
    plan = make_plan()
    tokens = (TOKENS * 7)[:60]
    step = NativeStep(plan, screen=False)
    expected = reference(plan, tokens)
    assert float((logits_of(step, tokens, [32, 28]) - expected).abs().max()) < 1e-4 * float(expected.std())
    cache = step.new_cache(1, 60, torch.bfloat16)
    _, logits = step.step(cache, tokens, [0] * 60, range(60), range(60))
    assert 1e-5 < float((logits - expected).abs().max() / expected.std()) < 0.1


def test_a_tied_head_is_held_once() -> None:
    """Catches: two copies of the largest weight."""
    plan = make_plan()
    tied = replace(plan, head=Linear(plan.embedding))
    step = NativeStep(tied)
    assert step._model.head.data == step._model.embedding.data
    untied = NativeStep(plan)
    assert untied._model.head.data != untied._model.embedding.data


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a traceback where a slower way exists."""
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    native.library.cache_clear()
    try:
        with pytest.raises(NoNativeStep, match="g\\+\\+"):
            native.library()
    finally:
        native.library.cache_clear()
