"""What every conversion keeps to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pomona import anatomy
from pomona.anatomy.architecture import build
from pomona.conversion import XEcomlaConfig
from pomona.ground.config import MethodConfig
from tests.conformance import methods_of, slug_of
from tests.tiny import gpt2, llama

METHODS = methods_of("conversion")
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)
REPAIRED = {XEcomlaConfig}
"""Methods after which a model computes something else, and is to be trained on."""
TOKENS = torch.arange(1, 11).unsqueeze(0)


@every_method
@torch.no_grad()
def test_converts_in_place_and_reports(method: type[MethodConfig]) -> None:
    """Catches a conversion of a copy, one that changes the function or the training mode, and a report that does not
    say what happened."""
    model, config = specimen(method)
    expected = model(TOKENS).logits
    report = config.apply_(model)
    assert model.training and report.parameters_after == anatomy.of(model).parameter_count()
    found = model(TOKENS).logits
    if method in REPAIRED:
        assert report.difference > 1e-4 and not torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if report.cache_after is not None:
        assert report.cache_after == anatomy.of(model).kv_cache_bytes(1) < report.cache_before


@every_method
def test_plans_on_shapes_alone(method: type[MethodConfig]) -> None:
    """Catches a conversion that needs values where a plan has none."""
    model, config = specimen(method)
    shadow = build(type(model), model.config)
    report = config.apply_(shadow)
    assert report.difference is None and next(shadow.parameters()).is_meta


def specimen(method: type[MethodConfig]) -> tuple[Any, Any]:
    """A tiny model that a method converts, and its configuration."""
    if method is XEcomlaConfig:
        return llama(), method(rank=9, rotary=4)
    return gpt2(), method()
