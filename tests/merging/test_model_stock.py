"""Model Stock: the ratio from the angle, in closed form and by its geometry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pomona.merging import merge
from pomona.merging.model_stock import model_stock, stock_ratio
from tests.merging.models import base_of, equal, expert_of, state_of, tensors


def test_by_hand() -> None:
    """Sixty degrees between two experts: t = 2/3."""
    base = torch.tensor([1.0, 1.0])
    one, two = torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0 + 3**0.5])
    merged = model_stock(base, [one, two])
    torch.testing.assert_close(merged, base + 2 / 3 * ((one + two) / 2 - base), check_dtype=False)


@pytest.mark.parametrize("experts", [2, 3, 5])
def test_the_result_is_where_the_perpendicular_meets(experts: int) -> None:
    """On a thin shell around a centre, t is where the line from the base to the mean is nearest to that centre: with N
    changes of one length and one angle the closed form equals the projection. Catches N in the wrong place."""
    cosine, size = 0.3, 8
    # N unit vectors with one pairwise cosine: a shared part and a part of their own
    shared, own = cosine**0.5, (1 - cosine) ** 0.5
    changes = torch.zeros(experts, size, dtype=torch.float64)
    changes[:, 0] = shared
    for place in range(experts):
        changes[place, 1 + place] = own
    centre = torch.zeros(size, dtype=torch.float64)
    centre[0] = shared  # the mean of ever more of them
    mean = changes.mean(0)
    projection = float(torch.dot(centre, mean) / torch.dot(mean, mean))
    assert stock_ratio(cosine, experts) == pytest.approx(projection, rel=1e-12)
    merged = model_stock(torch.zeros(size, dtype=torch.float64), list(changes))
    torch.testing.assert_close(merged, projection * mean)


def test_angles_decide() -> None:
    """Orthogonal and opposed changes leave the base; a tensor that one expert left alone, too."""
    base = torch.zeros(2)
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for experts in ([one, two], [one, -one], [one, torch.zeros(2)]):
        assert model_stock(base, experts).tolist() == [0.0, 0.0]
    ratios = [stock_ratio(cosine, 3) for cosine in (-0.5, 0.0, 0.2, 0.7, 1.0)]
    assert ratios == sorted(ratios) and ratios[1] == 0.0 and ratios[-1] == 1.0


@settings(deadline=None)
@given(tensors(2), st.integers(2, 5))
def test_identical_experts_return_themselves(pair: list[Tensor], count: int) -> None:
    """Equal changes have the cosine 1 exactly, so the mean is taken whole: bit for bit."""
    assert torch.equal(model_stock(pair[0], [pair[1]] * count).float(), pair[1])


def test_whole_models() -> None:
    """The same for every tensor of a model."""
    base = base_of("gpt_neox")
    expert = expert_of(base, 0)
    assert equal(state_of(merge(base, [expert, expert], "model-stock")), state_of(expert))
