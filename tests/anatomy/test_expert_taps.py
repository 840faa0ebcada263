"""Taps at single experts: the tokens that the router sends them, and changes that equal those of their weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pomona.anatomy import FeedForward, Weight, of, replace_inputs, replace_outputs, tap_branch, tap_inputs, tap_outputs
from pomona.anatomy.expert_taps import expert_hook
from pomona.anatomy.tiny import TINY, tiny_model
from pomona.ground.errors import UnsupportedModel

from .conftest import inputs_of

DECODERS = [name for name, row in TINY.items() if row.auto == "AutoModelForCausalLM"]
WITH_EXPERTS = [name for name in DECODERS if any(block.ffn.experts for block in of(tiny_model(name)).blocks)]


@pytest.fixture(params=WITH_EXPERTS)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(request.param)


def experts_of(model: Any) -> FeedForward:
    return next(block.ffn for block in of(model).blocks if block.ffn.experts is not None)


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**inputs_of(model)).logits
    return logits


def rows_of(ffn: FeedForward, model: Any) -> tuple[Tensor, Tensor]:
    """(tokens, hidden) that reach the router, and what it says about each expert."""
    assert ffn.router is not None
    rows: list[Tensor] = []
    with tap_inputs(ffn.router, rows.append):
        logits_of(model)
    return rows[0], rows[0] @ ffn.router.read().T


def test_an_expert_sees_the_tokens_that_it_is_sent(model: Any) -> None:
    """Breaks when an expert is given all tokens, those of another, or other outputs than it gives."""
    ffn = experts_of(model)
    rows, said = rows_of(ffn, model)
    chosen = said.topk(ffn.active, -1).indices
    for index in range(ffn.num_experts):
        expert = ffn.expert(index)
        mine = rows[(chosen == index).any(-1)]
        for weight in (w for w in (expert.gate, expert.up, expert.down) if w is not None):
            given, got = [], []
            with tap_inputs(weight, given.append), tap_outputs(weight, got.append):
                logits_of(model)
            if not len(mine):
                assert given == got == []
                continue
            torch.testing.assert_close(weight.apply(given[0]), got[0])
            assert given[0].shape == (len(mine), weight.shape[1])
            if weight is not expert.down:
                assert torch.equal(given[0], mine)


@pytest.mark.parametrize("role", ["gate", "up", "down"])
@pytest.mark.parametrize("replace", [replace_inputs, replace_outputs])
def test_replacing_equals_other_weights(model: Any, replace: Any, role: str) -> None:
    """Breaks when a change reaches another map or expert, or the difference is not weighted by the router's share."""
    ffn = experts_of(model)
    _, said = rows_of(ffn, model)
    index = int(said.argmax(-1)[0])
    weight: Weight = getattr(ffn.expert(index), role)
    plain = logits_of(model)
    with replace(weight, lambda rows: rows * 3):
        found = logits_of(model)
    weight.write_(weight.read() * 3)
    torch.testing.assert_close(found, logits_of(model), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, plain)


def test_replaced_experts_have_gradients_and_keep_shapes(model: Any) -> None:
    """Breaks when the difference is detached, or a wrong shape is added to the tokens of others."""
    ffn = experts_of(model)
    _, said = rows_of(ffn, model)
    down = ffn.expert(int(said.argmax(-1)[0])).down
    vector = torch.zeros(32, requires_grad=True)
    with replace_outputs(down, lambda rows: rows + vector):
        model(**inputs_of(model)).logits.sum().backward()
    assert vector.grad is not None and float(vector.grad.abs().sum()) > 0
    with pytest.raises(ValueError, match="carries"), replace_outputs(down, lambda rows: rows[:, :1]):
        logits_of(model)


def test_all_experts_at_once_are_tapped_as_a_branch(model: Any) -> None:
    """Breaks when the stacked map of all experts is taken for one that every token goes through."""
    block = next(block for block in of(model).blocks if block.ffn.experts is not None)
    with pytest.raises(ValueError, match=r"tap those of ffn\.expert"), tap_inputs(block.ffn.up, print):
        pass
    seen: list[Tensor] = []
    with tap_branch(block, "ffn", seen.append):
        logits_of(model)
    assert seen[0].shape == (2, 12, 32)
    hook = expert_hook(block.ffn.expert(0).up, lambda rows: rows)
    with pytest.raises(UnsupportedModel, match="one by one"):
        hook(torch.nn.Linear(2, 2), (torch.ones(2, 2),), {}, torch.ones(2, 2))
