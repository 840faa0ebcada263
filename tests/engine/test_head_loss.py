"""The fused head and loss against PyTorch's own cross-entropy, in values and gradients."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pomona.engine import IGNORED, linear_cross_entropy


def reference(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), labels, ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk_elements", [1, 60, 2**22])
def test_equals_cross_entropy_in_float64(with_bias: bool, chunk_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that is lost, counted twice or scaled wrongly would change the loss or one of the gradients."""
    monkeypatch.setattr(sys.modules[linear_cross_entropy.__module__], "CHUNK_ELEMENTS", chunk_elements)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(11, 5, dtype=torch.float64, generator=generator)
    weight = torch.randn(7, 5, dtype=torch.float64, generator=generator)
    bias = torch.randn(7, dtype=torch.float64, generator=generator) if with_bias else None
    labels = torch.tensor([0, 6, 3, IGNORED, 2, 2, 5, IGNORED, 1, 4, 0])
    ours = [t.clone().requires_grad_() for t in (hidden, weight, bias) if t is not None]
    theirs = [t.clone().requires_grad_() for t in (hidden, weight, bias) if t is not None]
    total, _ = linear_cross_entropy(ours[0], ours[1], ours[2] if with_bias else None, labels)
    expected = reference(theirs[0], theirs[1], theirs[2] if with_bias else None, labels)
    (3.0 * total).backward()
    (3.0 * expected).backward()
    # the loss itself is float32, its inputs are float64
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-5, atol=1e-5)


def test_large_logits_stay_finite() -> None:
    """Without subtracting the row's maximum the exponentials of logits in the hundreds overflow."""
    hidden = torch.tensor([[300.0, -300.0]], requires_grad=True)
    weight = torch.eye(2, requires_grad=True)
    total, _ = linear_cross_entropy(hidden, weight, None, torch.tensor([1]))
    total.backward()
    assert float(total.detach()) == pytest.approx(600.0)
    assert torch.isfinite(hidden.grad).all()


def test_hits_are_counted_without_gradients() -> None:
    """Accuracy is taken over counted rows only, also of parameters, which want gradients outside of `no_grad`."""
    hidden, weight = torch.eye(3), torch.nn.Parameter(torch.eye(3))
    with torch.no_grad():
        _, correct = linear_cross_entropy(hidden, weight, None, torch.tensor([0, 2, IGNORED]))
    assert int(correct) == 1


def test_a_frozen_head_costs_nothing() -> None:
    """Catches a product for the gradient of a weight that has none: a third of the head's cost when adapters train."""
    hidden, weight = torch.randn(6, 4, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    labels, costs, grads = torch.tensor([0, 8, 3, IGNORED, 2, 2]), [], []
    for learns in (True, False):
        ours, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_(learns)
        with FlopCounterMode(display=False) as counter:
            linear_cross_entropy(ours, head, None, labels)[0].backward()
        costs.append(counter.get_total_flops())
        grads.append(ours.grad)
        assert (head.grad is not None) == learns
    assert torch.equal(grads[0], grads[1]) and 3 * costs[1] == 2 * costs[0]
