"""What every conversion keeps to."""

from __future__ import annotations

import pytest
import torch

from pomona import anatomy
from pomona.anatomy.architecture import build
from pomona.ground.config import MethodConfig
from tests.conformance import check_card, check_listed, methods_of, slug_of
from tests.tiny import gpt2

METHODS = methods_of("conversion")
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)
TOKENS = torch.arange(1, 11).unsqueeze(0)


def test_all_are_listed() -> None:
    """Catches a conversion that this suite does not see."""
    assert METHODS
    check_listed("conversion", "pomona.conversion")


@every_method
def test_card(method: type[MethodConfig]) -> None:
    """Catches a method without source, formula or described fields."""
    check_card(method)


@every_method
@torch.no_grad()
def test_converts_in_place_and_reports(method: type[MethodConfig]) -> None:
    """Catches a conversion of a copy, one that changes the function or the training mode, and a report that does not
    say what happened."""
    model = gpt2()
    expected = model(TOKENS).logits
    report = method().apply_(model)  # type: ignore[attr-defined]
    assert model.training and report.parameters_after == anatomy.of(model).parameter_count()
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)


@every_method
def test_plans_on_shapes_alone(method: type[MethodConfig]) -> None:
    """Catches a conversion that needs values where a plan has none."""
    model = gpt2()
    shadow = build(type(model), model.config)
    report = method().apply_(shadow)  # type: ignore[attr-defined]
    assert report.difference is None and next(shadow.parameters()).is_meta
