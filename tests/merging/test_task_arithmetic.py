"""Sums of task vectors."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from torch import Tensor

from pomona.merging import merge
from pomona.merging.task_arithmetic import task_arithmetic
from tests.merging.models import base_of, equal, expert_of, state_of, tensors


def test_by_hand() -> None:
    """Catches a mean in place of the sum, a scale on the base, and weights that go astray."""
    base = torch.tensor([1.0, 1.0])
    experts = [torch.tensor([3.0, 1.0]), torch.tensor([1.0, 5.0])]
    assert task_arithmetic(base, experts, [1.0, -0.5], 2.0).tolist() == [5.0, -3.0]


@settings(deadline=None)
@given(tensors(2))
def test_one_expert_with_scale_one_is_that_expert(pair: list[Tensor]) -> None:
    """Catches rounding that shows, on the way to the task vector and back."""
    assert torch.equal(task_arithmetic(pair[0], pair[1:], [1.0], 1.0).float(), pair[1])


@settings(deadline=None)
@given(tensors(2))
def test_learning_and_forgetting_cancel(pair: list[Tensor]) -> None:
    """Catches a sign that is lost: adding an expert and its negative leaves the base."""
    base, expert = pair
    assert torch.equal(task_arithmetic(base, [expert, expert], [1.0, -1.0], 1.0).float(), base)


def test_whole_models() -> None:
    """One expert with scale 1 is the expert, in every tensor of a model."""
    base = base_of("bert")
    expert = expert_of(base, 0)
    assert equal(state_of(merge(base, [expert], "task-arithmetic", scale=1.0)), state_of(expert))
