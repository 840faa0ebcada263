"""Knowledge distillation: by hand, against slow loops, at its limits, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from pomona import anatomy
from pomona.distillation import KdConfig, Teacher, predictions, soft_loss
from pomona.ground.errors import UnsupportedModel
from tests.distillation.classroom import copy_of, lesson_of, prepared, teacher_of
from tests.tiny import llama


def test_by_hand() -> None:
    """Catches the other direction of the divergence and a temperature that is not squared."""
    student, teacher = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[math.log(3), 0.0]])
    kl = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.75)
    assert float(soft_loss(student, teacher)) == pytest.approx(kl)
    uneven = torch.tensor([[math.log(9), 0.0]])
    q = 1 / (1 + 3.0)  # of student, at temperature 2, on the first of two
    p, q = 0.75, 1 / (1 + math.sqrt(3))
    kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert float(soft_loss(student, uneven, temperature=2.0)) == pytest.approx(4 * kl)
    other = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    assert abs(other - kl) > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_slow_reference(seed: int) -> None:
    """Values and gradients of loops in float64 over rows and tokens."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    temperature = 1.7
    slow = torch.zeros((), dtype=torch.float64)
    for row in range(5):
        p, q = ((z[row] / temperature).exp() / (z[row] / temperature).exp().sum() for z in (teacher, student))
        slow = slow + temperature**2 * sum(p[v] * (p[v].log() - q[v].log()) for v in range(7))
    (expected,) = torch.autograd.grad(slow, student)
    fast = soft_loss(student, teacher, temperature=temperature)
    (grad,) = torch.autograd.grad(fast, student)
    torch.testing.assert_close(fast.double(), slow, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)


def test_a_certain_teacher_gives_the_labels_loss() -> None:
    """Limit: a teacher with everything on the label is cross-entropy, and half of high temperatures is the distance
    of logits without their means (Sec. 2.1)."""
    logits, labels = torch.randn(6, 9), torch.arange(6)
    certain = functional.one_hot(labels, 9) * 1e4
    hard = functional.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(soft_loss(logits, certain), hard)
    other = torch.randn(6, 9)
    apart = (logits - logits.mean(1, keepdim=True)) - (other - other.mean(1, keepdim=True))
    torch.testing.assert_close(
        soft_loss(logits, other, temperature=300.0), apart.square().sum() / 18, rtol=2e-2, atol=0
    )


def test_labels_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a weight that is not applied, and hits or parts of something else; in one part or in several."""
    teacher = teacher_of("llama")
    body = anatomy.of(llama())
    soft, both = (lesson_of(KdConfig(ce_weight=weight), "llama", teacher) for weight in (0.0, 0.5))
    batch = prepared(soft)
    task = soft.task(body, batch)
    only = soft(body, batch)
    seen = []
    for chunk in (predictions.CHUNK_ELEMENTS, 7 * body.vocab_size):
        monkeypatch.setattr(predictions, "CHUNK_ELEMENTS", chunk)
        loss = both(body, batch)
        torch.testing.assert_close(loss.total, only.total + 0.5 * task.total)
        torch.testing.assert_close(loss.parts["labels"], task.total.detach())
        body.model.zero_grad()
        loss.total.backward()
        seen.append([parameter.grad.clone() for parameter in body.model.parameters()])
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-6)
    with torch.no_grad():  # only then does the task count its hits
        assert int(only.correct) == int(soft.task(body, batch).correct)


def test_the_other_way_round() -> None:
    """Catches a student and a teacher that are exchanged: on a copy with a sharper head the loss is known."""
    teacher = teacher_of("llama", tie_word_embeddings=False)
    lesson, student = lesson_of(KdConfig(), "llama", teacher), copy_of(teacher)
    with torch.no_grad():
        student.model.lm_head.weight.mul_(3)
    batch = prepared(lesson)
    logits = teacher.body.model(batch["input_ids"]).logits.flatten(0, 1)
    expected = functional.kl_div((3 * logits).log_softmax(-1), logits.log_softmax(-1), reduction="sum", log_target=True)
    torch.testing.assert_close(lesson(student, batch).total, expected)


def test_refusals() -> None:
    """Catches compute spent on logits that cannot be compared."""
    lesson = lesson_of(KdConfig(), "llama", Teacher(llama(vocab_size=80)))
    with pytest.raises(UnsupportedModel, match="teacher's tokenizer"):
        lesson.check(anatomy.of(llama()))
