"""What every adapter keeps to."""

from __future__ import annotations

import pytest
import torch

from pomona import anatomy
from pomona.ground.config import MethodConfig
from pomona.tasks.classifier import from_base, head_of
from tests.conformance import check_card, check_listed, methods_of, slug_of
from tests.tiny import bert, gpt2, llama

METHODS = methods_of("adapter")
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)
every_family = pytest.mark.parametrize("make", [llama, gpt2, bert], ids=["llama", "gpt2", "bert"])
IDS = torch.arange(24).reshape(2, 12) + 3


def classifier(make: type) -> torch.nn.Module:
    """A tiny classifier of three labels."""
    from pomona.data.tokenizer import untrained_tokenizer

    return from_base(make(), ("a", "b", "c"), untrained_tokenizer()).train()


def test_all_are_listed() -> None:
    """Catches an adapter that this suite does not see."""
    assert METHODS
    check_listed("adapter", "pomona.adapters")


@every_method
def test_card(method: type[MethodConfig]) -> None:
    """Catches a method without source, formula or described fields."""
    check_card(method)


@every_method
@every_family
def test_start_and_what_trains(method: type[MethodConfig], make: type) -> None:
    """Catches an adapter that changes the model before it has learnt anything, and frozen weights with gradients."""
    model = classifier(make)
    before = model(input_ids=IDS).logits.detach()
    own = {name for name, _ in model.named_parameters()}
    head = {name for name, parameter in model.named_parameters() if any(parameter is each for each in head_of(model))}
    method().attach_(anatomy.of(model), head=head_of(model))  # type: ignore[attr-defined]
    output = model(input_ids=IDS, labels=torch.tensor([0, 2]))
    assert torch.equal(output.logits, before)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert head <= trained
    assert slug_of(method) == "full" or not (own - head) & trained, "what was there before is frozen"
