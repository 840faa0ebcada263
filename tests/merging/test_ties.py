"""TIES against a plain-loop reference, with the trimming over the whole model and over each tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from pomona.merging import TiesConfig, merge
from pomona.merging.ties import ties
from tests.merging.models import base_of, equal, expert_of, state_of, tensors


def reference(base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], density: float) -> dict[str, Any]:
    """Algorithm 1, entry by entry, in float64: trim over the flattened model, elect, disjoint mean."""
    trimmed = []
    for expert in experts:
        vector = {name: (expert[name].double() - base[name].double()).flatten().tolist() for name in base}
        sizes = sorted((abs(value) for values in vector.values() for value in values), reverse=True)
        threshold = sizes[max(1, round(density * len(sizes))) - 1]
        trimmed.append({name: [v if abs(v) >= threshold else 0.0 for v in values] for name, values in vector.items()})
    merged = {}
    for name in base:
        values = []
        for place, start in enumerate(base[name].double().flatten().tolist()):
            found = [vector[name][place] for vector in trimmed]
            total = sum(found)
            agreeing = [value for value in found if value * total > 0]
            values.append(start + (sum(agreeing) / len(agreeing) if agreeing else 0.0))
        merged[name] = torch.tensor(values).view(base[name].shape)
    return merged


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
def test_equals_the_reference(density: float) -> None:
    """Catches a threshold of one tensor in place of the model's, an election before the trimming, and a mean over all
    experts: two tensors of very different scale, three experts."""
    generator = torch.Generator().manual_seed(0)

    def state(scale: float) -> dict[str, Tensor]:
        return {
            "large": torch.randn(7, 5, generator=generator) * 10 * scale,
            "small": torch.randn(11, generator=generator) * scale,
        }

    base = state(1.0)
    experts = [{name: base[name] + moved for name, moved in state(0.1).items()} for _ in range(3)]
    merged = merge(base, experts, "ties", density=density)
    for name, wanted in reference(base, experts, density).items():
        torch.testing.assert_close(merged[name], wanted, rtol=1e-6, atol=1e-6)
    by_tensor = merge(base, experts, "ties", density=density, trim="tensor")
    assert equal(merged, by_tensor) is (density == 1.0)


@settings(deadline=None)
@given(tensors(2))
def test_identical_experts_return_themselves(pair: list[Tensor]) -> None:
    """With nothing trimmed, equal experts give themselves bit for bit."""
    assert torch.equal(ties(pair[0], [pair[1]] * 3, [1.0, 1.0, 1.0]).float(), pair[1])


def test_every_tensor_keeps_something() -> None:
    """Catches small tensors that are emptied when the share is of each tensor: at least one entry stays."""
    base, expert = {"w": torch.zeros(3)}, {"w": torch.tensor([1.0, -3.0, 2.0])}
    assert merge(base, [expert], "ties", density=0.1, trim="tensor")["w"].tolist() == [0.0, -3.0, 0.0]


def test_scale() -> None:
    """Catches a factor on the base instead of the change."""
    base, expert = {"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}
    assert merge(base, [expert], TiesConfig(scale=0.5))["w"] == 2.0


def test_so_much_of_the_model_is_kept() -> None:
    """The kept share of a whole model is the density, where no two changes are equal in size."""
    base = base_of("t5")
    expert = expert_of(base, 0)
    before, merged = base.state_dict(), merge(base, [expert], "ties", density=0.3).state_dict()
    names = [name for name, _ in base.named_parameters()]
    total = sum(before[name].numel() for name in names)
    changed = sum(int((merged[name] != before[name]).sum()) for name in names)
    assert changed == pytest.approx(0.3 * total, abs=0.0005 * total)
    assert not equal(state_of(merged_by_tensor(base, expert)), merged)


def merged_by_tensor(base: Any, expert: Any) -> Any:
    return merge(base, [expert], "ties", density=0.3, trim="tensor")
