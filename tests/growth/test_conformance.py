"""What every growth method keeps to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pomona import anatomy
from pomona.ground.config import MethodConfig
from tests.conformance import methods_of, slug_of
from tests.tiny import VOCABULARY, gpt2, llama

METHODS = methods_of("growth")
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)
every_family = pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])


@every_method
@every_family
def test_grows_in_place_and_reports(method: type[MethodConfig], make: type) -> None:
    """Catches growth of a copy, and a report that does not say what happened."""
    model = make()
    report = method().apply_(model)  # type: ignore[attr-defined]
    body = anatomy.of(model)
    assert report.parameters_before < report.parameters_after == body.parameter_count()
    assert report.blocks_after == len(body.blocks)


@every_method
@every_family
def test_grown_model_learns_in_every_parameter(method: type[MethodConfig], make: type) -> None:
    """Catches parts that are shared, detached or dead after growth."""
    model = make()
    method().apply_(model)  # type: ignore[attr-defined]
    tokens = torch.randint(0, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    model(input_ids=tokens, labels=tokens).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(set(pointers)) == len(pointers)


@every_method
@every_family
def test_grown_model_is_an_ordinary_folder(method: type[MethodConfig], make: type, tmp_path: Path) -> None:
    """Catches a configuration that does not follow: saved and loaded by transformers alone, the logits are the same."""
    model = make().eval()
    method().apply_(model)  # type: ignore[attr-defined]
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.arange(10).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, again(tokens).logits)


@every_method
def test_deterministic(method: type[MethodConfig]) -> None:
    """Catches randomness without a seed."""
    one, other = llama(), llama()
    method().apply_(one)  # type: ignore[attr-defined]
    method().apply_(other)  # type: ignore[attr-defined]
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
