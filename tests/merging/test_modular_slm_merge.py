"""Modular merging: its limits are other methods, by hand and against loops."""

from __future__ import annotations

import math

import pytest
import torch

from pomona.ground.errors import ConfigError
from pomona.merging.arc import slerp
from pomona.merging.breadcrumbs import breadcrumbs
from pomona.merging.modular_slm_merge import ModularSlmMergeConfig, modular_slm_merge


def drawn(seed: int, count: int = 4) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 9, generator=draw) for _ in range(count)]


def test_by_hand() -> None:
    """Catches an arc that starts from the wrong end, and shares that are not of all entries."""
    base, expert = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    merged = modular_slm_merge(base, [expert], [1.0], t=0.5, density=1.0, outliers=0.0)
    assert torch.allclose(merged.float(), torch.tensor([math.sqrt(0.5), math.sqrt(0.5)]))
    merged = modular_slm_merge(base, [expert], [1.0], t=0.5, density=0.5, outliers=0.5)
    assert torch.allclose(merged.float(), torch.tensor([math.sqrt(0.5), 0.0])), "the larger change is left out"


@pytest.mark.parametrize("seed", range(3))
def test_limits(seed: int) -> None:
    """Catches a step that is left out: each alone is the method that it comes from."""
    base, *experts = drawn(seed)
    whole = modular_slm_merge(base, experts, [1.0, 2.0, 1.0], t=1.0, density=0.8, outliers=0.05)
    torch.testing.assert_close(whole, breadcrumbs(base, experts, [1.0, 2.0, 1.0], 0.8, 0.05))
    alone = modular_slm_merge(base, experts[:1], [1.0], t=0.3, density=1.0, outliers=0.0)
    torch.testing.assert_close(alone, slerp(base, experts[0], 0.3))
    same = modular_slm_merge(base, experts[:1], [3.0], t=1.0, density=1.0, outliers=0.0)
    assert torch.equal(same.float(), experts[0])


def test_slow_reference() -> None:
    """Catches masks that are taken of the experts before they are pulled, and a sum in place of the mean."""
    base, *experts = drawn(5)
    t, density, outliers, weights = 0.6, 0.7, 0.1, [1.0, 3.0, 2.0]
    expected = base.double().clone()
    for weight, expert in zip(weights, experts, strict=True):
        a, b = base.double().flatten(), expert.double().flatten()
        angle = math.acos(float(a @ b / (a.norm() * b.norm())))
        pulled = (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)
        changes = (pulled - a).tolist()
        order = sorted(range(len(changes)), key=lambda place: -abs(changes[place]))
        above = int(outliers * len(changes))
        for place in order[above : above + round(density * len(changes))]:
            expected.view(-1)[place] += weight / sum(weights) * changes[place]
    found = modular_slm_merge(base, experts, weights, t=t, density=density, outliers=outliers)
    torch.testing.assert_close(found, expected)


def test_refusals() -> None:
    """Catches shares that are more than all, and weights that do not fit the experts."""
    with pytest.raises(ConfigError, match="more than all entries"):
        ModularSlmMergeConfig.parse({"density": 0.95, "outliers": 0.1})
    with pytest.raises(ConfigError, match="weights do not fit"):
        ModularSlmMergeConfig(weights=(1.0, 2.0)).check(3)
