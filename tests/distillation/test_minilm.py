"""MiniLM: by hand, against slow loops, under what must not change it, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import AttentionCall, Place, tap_inputs
from pomona.distillation import MinilmConfig, Teacher, minilm
from pomona.distillation.minilm import relation_loss
from pomona.ground.errors import ConfigError, UnsupportedModel
from tests.distillation.classroom import Numbers, copy_of, lesson_of, prepared, stirred, teacher_of
from tests.tiny import bert, gpt2, llama


def call(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> AttentionCall:
    """A call with plain scores."""
    attention: Any = None
    scaling = query.shape[-1] ** -0.5
    return AttentionCall(Place("blocks", 0, False), attention, query, key, value, scaling, causal, mask)


def drawn(
    seed: int, heads: int = 4, kv_heads: int = 4, width: int = 6, *, causal: bool = False, rows: int = 2
) -> AttentionCall:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((rows, heads, 5, width), (rows, kv_heads, 5, width), (rows, kv_heads, 5, width))
    return call(*(torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes), causal=causal)


ALL = torch.ones(2, 5, dtype=torch.bool)


def test_by_hand() -> None:
    """Catches the direction of the divergence and a scale that is the other model's: one head, two tokens, one row."""
    teacher = call(torch.tensor([[[[1.0], [0.0]]]]), torch.tensor([[[[math.log(3)], [0.0]]]]), torch.zeros(1, 1, 2, 1))
    query = torch.zeros(1, 1, 2, 4)
    query[0, 0, 0, 0] = 2.0  # divided by the root of 4
    student = call(query, torch.tensor([[[[0.0, 0, 0, 0], [math.log(3), 0, 0, 0]]]]), torch.zeros(1, 1, 2, 4))
    kl = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.75)
    rows = torch.tensor([[True, False]])
    assert float(relation_loss(student, teacher, rows)) == pytest.approx(kl)
    value = torch.zeros(1, 1, 2, 1)
    value[0, 0, 0, 0] = math.sqrt(math.log(3))  # 3 to 1 for the first token, even for the second
    related = call(teacher.query, teacher.key, value)
    even = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(relation_loss(student, related, rows)) == pytest.approx(kl + even)
    assert float(relation_loss(student, related, rows, values=False)) == pytest.approx(kl)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_slow_reference(seed: int, causal: bool) -> None:
    """Loops over examples, heads, rows and keys, with grouped values and padding, values and gradients."""
    student, teacher = (
        drawn(seed, kv_heads=2, width=6, causal=causal),
        drawn(seed + 9, kv_heads=4, width=3, causal=causal),
    )
    student.query.requires_grad_(), student.value.requires_grad_()
    counted = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    if not causal:
        student.mask = teacher.mask = counted[:, None, None, :]

    def row(one: AttentionCall, x: Tensor, y: Tensor, b: int, a: int, t: int) -> Tensor:
        keys = [s for s in range(5) if (s <= t if causal else counted[b, s])]
        scores = torch.stack([x[b, a, t] @ y[b, a, s] for s in keys]) / math.sqrt(x.shape[-1])
        return torch.log_softmax(scores, 0)

    slow = torch.zeros((), dtype=torch.float64)
    for b in range(2):
        for t in range(5):
            for a in range(4 if counted[b, t] else 0):
                for part in ("attention", "values"):
                    logs = []
                    for one in (student, teacher):
                        groups = 4 // one.key.shape[1]
                        key, value = one.key.repeat_interleave(groups, 1), one.value.repeat_interleave(groups, 1)
                        x, y = (one.query, key) if part == "attention" else (value, value)
                        logs.append(row(one, x, y, b, a, t))
                    slow = slow + (logs[1].exp() * (logs[1] - logs[0])).sum() / 4
    fast = relation_loss(student, teacher, counted)
    torch.testing.assert_close(fast.double(), slow, rtol=1e-6, atol=0)
    inputs = (student.query, student.value)
    torch.testing.assert_close(
        torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs), rtol=1e-5, atol=1e-9
    )


def test_rotations_change_nothing() -> None:
    """Catches relations that depend on the basis of a head: Q and K may be turned together, V by itself."""
    student, teacher = drawn(0), drawn(1)
    turn, other = (torch.linalg.qr(torch.randn(4, 6, 6, dtype=torch.float64))[0] for _ in range(2))
    turned = call(student.query @ turn, student.key @ turn, student.value @ other)
    torch.testing.assert_close(relation_loss(turned, teacher, ALL), relation_loss(student, teacher, ALL))
    torch.testing.assert_close(relation_loss(teacher, turned, ALL), relation_loss(teacher, student, ALL))
    half = call(student.query @ turn, student.key, student.value)
    assert not torch.isclose(relation_loss(half, teacher, ALL), relation_loss(student, teacher, ALL))


def test_padding_and_order_change_nothing() -> None:
    """Catches padded keys that are seen, and padded rows that count."""
    student, teacher = drawn(2), drawn(3)
    before = relation_loss(student, teacher, ALL)

    def padded(one: AttentionCall) -> AttentionCall:
        wide = [torch.cat([x, torch.randn(2, 4, 3, x.shape[-1])], 2) for x in (one.query, one.key, one.value)]
        real = torch.cat([ALL, torch.zeros(2, 3, dtype=torch.bool)], 1)
        return call(*(x.flip(0) for x in wide), mask=real[:, None, None, :])

    counted = torch.cat([ALL, torch.zeros(2, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(relation_loss(padded(student), padded(teacher), counted), before)


@pytest.mark.parametrize("heads", [None, 3])
def test_a_few_rows_at_a_time(heads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches rows that are lost or counted twice, with their gradients."""
    results = []
    for chunk in (minilm.CHUNK_ELEMENTS, 2 * 2 * 4 * 5):
        monkeypatch.setattr(minilm, "CHUNK_ELEMENTS", chunk)
        student, teacher = drawn(4, causal=True), drawn(5, causal=True)
        student.query.requires_grad_()
        loss = relation_loss(student, teacher, ALL, heads=heads)
        results.append((loss.detach(), torch.autograd.grad(loss, student.query)[0]))
    torch.testing.assert_close(*results)


def test_heads_that_are_joined_and_cut_anew() -> None:
    """Catches features that are dealt out in another order: as many heads as there are give Q-Q, K-K, V-V of each."""
    one = drawn(6)
    found = minilm.relations(one, slice(0, 5), heads=4)
    for x, related in zip((one.query, one.key, one.value), found, strict=True):
        torch.testing.assert_close(related, torch.log_softmax(x @ x.transpose(2, 3) / math.sqrt(6), -1))
    assert [x.shape[1] for x in minilm.relations(one, slice(0, 5), heads=2)] == [2, 2, 2]


@pytest.mark.parametrize("family, make", [("bert", bert), ("llama", llama), ("gpt2", gpt2)])
def test_what_is_computed_and_what_learns(family: str, make: Any) -> None:
    """Catches a student of another width that needs projections, work after the last queries, keys and values, and
    gradients there."""
    wide = {"bert": {"hidden_size": 48}, "llama": {"hidden_size": 48}, "gpt2": {"n_embd": 48}}[family]
    teacher = Teacher(stirred(make(3, **wide), scale=0.1))
    lesson, body = lesson_of(MinilmConfig(), family, teacher), anatomy.of(make(2))

    def never(rows: Tensor) -> None:
        raise AssertionError("computed for nothing")

    taps = [tap_inputs(one.blocks[-1].attention.output, never) for one in (body, teacher.body)]
    with pytest.raises(ConfigError, match="nothing passed"), taps[0], taps[1]:
        lesson(body, prepared(lesson)).total.backward()
    last = body.blocks[-1]
    for weight in (last.attention.query, last.attention.key, last.attention.value):
        grad = weight.parameter.grad
        assert grad is not None and bool(weight.canonical(grad).any())
    for weight in (last.attention.output, last.ffn.up, last.ffn.down):
        assert weight.parameter.grad is None
    assert body.blocks[0].ffn.down.parameter.grad is not None


def test_another_block_may_teach() -> None:
    """Catches a block that is counted from the wrong end: a copy cut to the first block copies the first block."""
    teacher = teacher_of("llama", blocks=3)
    student = copy_of(teacher)
    student.restack_([0])
    for index, equal in ((0, True), (-3, True), (1, False), (-1, False)):
        lesson = lesson_of(MinilmConfig(teacher_block=index), "llama", teacher)
        total = float(lesson(student, prepared(lesson)).total.detach())
        assert (total < 1e-3) is equal


def test_the_text_is_read_as_it_is() -> None:
    """Catches hidden tokens of the task that reach student and teacher, and tokens that do not count."""
    lesson = lesson_of(MinilmConfig(), "bert")
    (raw,) = Numbers().batch(0)
    batch = lesson.prepare(raw, torch.Generator().manual_seed(0))
    assert torch.equal(batch["input_ids"], raw["tokens"][:, :-1]) and torch.equal(batch["labels"], batch["input_ids"])
    hidden = lesson.task.prepare(raw, torch.Generator().manual_seed(0))["input_ids"]
    assert not torch.equal(hidden, batch["input_ids"])


def test_refusals() -> None:
    """Catches relations that do not correspond, found in the middle of a run."""
    teacher = Teacher(llama(num_attention_heads=4, num_key_value_heads=2))
    student = anatomy.of(llama())
    with pytest.raises(UnsupportedModel, match=r"relation_heads \(a divisor of 32\)"):
        lesson_of(MinilmConfig(), "llama", teacher).check(student)
    lesson = lesson_of(MinilmConfig(relation_heads=8), "llama", teacher)
    assert torch.isfinite(lesson(student, prepared(lesson)).total)
    with pytest.raises(UnsupportedModel, match="choose a divisor of 32"):
        lesson_of(MinilmConfig(relation_heads=5), "llama", teacher).check(student)
    with pytest.raises(ConfigError, match="no block 2"):
        lesson_of(MinilmConfig(teacher_block=2), "llama", teacher).check(student)
    with pytest.raises(UnsupportedModel, match="different masks"):
        MinilmConfig().check(anatomy.of(bert()), teacher.body)
    with pytest.raises(UnsupportedModel, match="same tokens"):
        lesson_of(MinilmConfig(), "llama", Teacher(llama(vocab_size=80))).check(student)
    with pytest.raises(ValueError, match="relates values too"):
        MinilmConfig(relation_heads=2, value_relations=False)
