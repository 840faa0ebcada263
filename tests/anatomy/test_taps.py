"""Taps see exactly what a linear map gets and gives, and leave nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pomona.anatomy import of, tap_inputs, tap_outputs

from .conftest import inputs_of


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_outputs_are_the_map_of_the_inputs(any_model: Any) -> None:
    """Breaks when a tap sits on another module, or passes the neighbours' outputs of a fused projection."""
    body, inputs = of(any_model), inputs_of(any_model)
    any_model(**inputs)  # transformers installs its own hooks at the first call
    before = hooks(any_model)
    for block in body.blocks:
        for weight in block.weights():
            seen: list[Tensor] = []
            with torch.no_grad(), tap_inputs(weight, seen.append), tap_outputs(weight, seen.append):
                any_model(**inputs)
            given, got = seen
            assert given.shape == (given.shape[0], weight.shape[1]) and given.shape[0] % 2 == 0
            torch.testing.assert_close(nn.functional.linear(given, weight.read(), weight.bias_read()), got)
    assert hooks(any_model) == before


def test_taps_are_removed_after_an_error(single_model: Any) -> None:
    """Breaks when a failing callback leaves its hook on the model."""
    body, inputs = of(single_model), inputs_of(single_model)
    single_model(**inputs)
    before = hooks(single_model)

    def fail(rows: Tensor) -> None:
        raise KeyError("full")

    for tap in (tap_inputs, tap_outputs):
        with pytest.raises(KeyError, match="full"), tap(body.blocks[1].ffn.down, fail):
            single_model(**inputs)
    assert hooks(single_model) == before


def test_only_linear_maps_are_tapped(single_model: Any) -> None:
    """Breaks when a table or a gain is tapped as if it multiplied rows."""
    with pytest.raises(ValueError, match="is a table"), tap_inputs(of(single_model).embedding, print):
        pass
