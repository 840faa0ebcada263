"""Joined maps: the same numbers, names and gradients, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pomona import anatomy
from pomona.anatomy.tiny import tiny_model
from pomona.engine.joined import joined_maps

TYPES = ["llama", "qwen2", "bert", "t5", "gpt2"]


def passes(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and gradients of one fixed batch."""
    ids = torch.arange(24).view(2, 12) % 50
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}
    model.zero_grad()
    logits = model(**inputs).logits
    logits.square().mean().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("model_type", TYPES)
def test_logits_and_gradients_stay(model_type: str) -> None:
    """Catches outputs in the wrong order, a lost bias, and gradients that end in another layer's weight."""
    model = tiny_model(model_type).double().eval()
    logits, gradients = passes(model)
    names = list(model.state_dict())
    with joined_maps(anatomy.of(model)):
        assert list(model.state_dict()) == names
        joined_logits, joined_gradients = passes(model)
    torch.testing.assert_close(joined_logits, logits)
    assert joined_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(joined_gradients[name], gradient)


def test_one_product_replaces_three_and_two() -> None:
    """Catches followers that compute alone after all, so that nothing is gained."""
    model = tiny_model("llama").eval()
    body = anatomy.of(model)
    called: list[int] = []
    real = nn.functional.linear

    def count(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        called.append(weight.shape[0])
        return real(inputs, weight, bias)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("torch.nn.functional.linear", count)
        model(input_ids=torch.arange(8)[None])
        alone = len(called)
        called.clear()
        with joined_maps(body):
            model(input_ids=torch.arange(8)[None])
    assert alone - len(called) == 3 * len(body.blocks)


def test_another_input_is_computed_alone() -> None:
    """Catches a follower that hands out what was made of an earlier input."""
    model = tiny_model("llama").eval()
    body = anatomy.of(model)
    attention = body.blocks[0].attention
    first, second = torch.randn(2, 3, body.hidden_size)
    expected = attention.key.owner(second)
    with joined_maps(body), torch.no_grad():
        attention.query.owner(first)
        assert torch.equal(attention.key.owner(second), expected)
        assert torch.equal(attention.key.owner(second), expected)


def test_nothing_is_left_behind() -> None:
    """Catches modules that stay changed after an error, or keep activations alive."""
    model = tiny_model("llama").eval()
    owners = [weight.owner for weight in anatomy.of(model).weights()]
    before = [set(vars(owner)) for owner in owners]
    with pytest.raises(RuntimeError, match="stop"), joined_maps(anatomy.of(model)):
        anatomy.of(model).blocks[0].attention.query.owner(torch.randn(3, model.config.hidden_size))
        raise RuntimeError("stop")
    assert all(type(owner) is nn.Linear for owner in owners)
    assert [set(vars(owner)) for owner in owners] == before


def test_wrapped_and_fused_layers_are_left_alone() -> None:
    """Catches a layer of another class, with a forward of its own, that is silently replaced."""

    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    model = tiny_model("llama").eval()
    body = anatomy.of(model)
    body.blocks[0].attention.key.owner.__class__ = Doubled
    expected = model(input_ids=torch.arange(8)[None]).logits
    with joined_maps(body):
        torch.testing.assert_close(model(input_ids=torch.arange(8)[None]).logits, expected)
        assert type(body.blocks[0].attention.key.owner) is Doubled
