"""Statistics of weights: by hand, and a change of level found where it is."""

from __future__ import annotations

import pytest
import torch

from pomona.ground.errors import ConfigError
from pomona.sparsity import change_point, initial_spread, magnitude_, weight_statistics
from pomona.sparsity.emergence import gini, kurtosis
from tests.sparsity.models import telling


def test_by_hand() -> None:
    """Catches signed values in the Gini coefficient, and excess kurtosis or another normalization."""
    assert gini(torch.tensor([3.0, -3.0, 3.0])) == 0.0
    assert gini(torch.tensor([0.0, 0.0, 0.0, -2.0])) == 0.75
    assert gini(torch.zeros(3)) == kurtosis(torch.ones(3)) == 0.0
    assert kurtosis(torch.tensor([1.0, -1.0])) == 1.0
    assert kurtosis(torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])) == pytest.approx(43 / 7)
    assert kurtosis(torch.randn(200_000, generator=torch.Generator().manual_seed(0))) == pytest.approx(3, abs=0.05)


def test_pruning_gathers_weights_at_zero() -> None:
    """Catches shares that are taken against the present spread, or over something else than the matrices."""
    body = telling("mixtral")
    spread = initial_spread(body)
    dense = weight_statistics(body, spread)
    normal = {width: float(torch.erf(torch.tensor(width / 2**0.5))) for width in dense.near_zero}
    assert dense.near_zero == pytest.approx(normal, rel=0.2, abs=2e-4)
    magnitude_(body)
    sparse = weight_statistics(body, spread)
    assert all(share == pytest.approx(0.5, abs=1e-4) for share in sparse.near_zero.values())
    assert sparse.gini > dense.gini and sparse.kurtosis < dense.kurtosis * 2
    with pytest.raises(ConfigError, match="no initial spread"):
        weight_statistics(telling("gpt2"), spread)


def test_a_change_of_level() -> None:
    """Catches an index that is off by one, and a change that is seen where the series only drifts or rests."""
    assert change_point([0.1, 0.11, 0.1, 0.1, 0.4, 0.41, 0.4]) == 4
    assert change_point([0.1] * 6) is None and change_point([1.0, 2.0]) is None
    assert change_point([0.1 * place for place in range(12)]) is None
    noise = torch.randn(40, generator=torch.Generator().manual_seed(0)).tolist()
    assert change_point(noise) is None
