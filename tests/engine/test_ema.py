"""The mean of the weights, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pomona.engine.ema import Ema


def one_weight(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(value)
    return model


def mean_of(ema: Ema) -> float:
    return float(ema.tensors()["ema.weight"])


def test_mean_by_hand() -> None:
    """Catches a decay that weighs the new instead of the old, and one that is not lowered at the start."""
    model = one_weight(1.0)
    ema = Ema(model, 0.5)
    model.weight.data.fill_(3.0)
    ema.update()  # the first decay is 2 / 11
    first = 2 / 11 * 1.0 + 9 / 11 * 3.0
    assert mean_of(ema) == pytest.approx(first)
    for _ in range(20):
        ema.update()
    before = mean_of(ema)
    model.weight.data.fill_(7.0)
    ema.update()  # by now 0.5 is the smaller one
    assert mean_of(ema) == pytest.approx((before + 7.0) / 2)


def test_the_model_gets_its_own_weights_back() -> None:
    """Catches an evaluation that leaves the mean in the weights that are trained, also when it fails."""
    model = one_weight(1.0)
    ema = Ema(model, 0.9)
    model.weight.data.fill_(5.0)
    with pytest.raises(ZeroDivisionError), ema.applied():
        assert model.weight.item() == 1.0
        raise ZeroDivisionError
    assert model.weight.item() == 5.0
    ema.copy_to_model()
    assert model.weight.item() == 1.0


def test_a_mean_is_finer_than_the_weights() -> None:
    """Catches a mean in bfloat16, in which small steps are lost."""
    model = one_weight(1.0).to(torch.bfloat16)
    ema = Ema(model, 0.999)
    model.weight.data.fill_(1.0078125)  # the next number in bfloat16
    for _ in range(3):
        ema.update()
    assert 1.0 < mean_of(ema) < 1.0078125 and ema.tensors()["ema.weight"].dtype == torch.float32
