"""What every method keeps to that makes training sparse from the start. New methods join by being listed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from pomona import anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.lab import outputs_of
from pomona.anatomy.tiny import tiny_model
from pomona.optimizers import AdamwConfig
from tests.conformance import methods_of, slug_of
from tests.sparsity.models import Squares, batches_of

METHODS: list[Any] = [
    method
    for method in methods_of("sparsity")
    if hasattr(method, "start_") and not getattr(method(), "needs_batches", False)
]
SMALL = {"rank": 4, "alpha": 4.0, "delta": 0.1}
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)
every_family = pytest.mark.parametrize("family", ["llama-grouped-untied", "gpt2", "bert", "t5-gated", "phi3"])


def config_of(method: Any, **more: Any) -> Any:
    return method(**{name: value for name, value in SMALL.items() if name in method.model_fields}, **more)


def trained(config: Any, family: str, steps: int = 3, seed: int = 0) -> tuple[Any, dict[str, Any], Any]:
    """A model after some steps, its facts, and the model as it was before."""
    model = tiny_model(family).train()
    before = copy.deepcopy(model)
    started = config.start_(model, seed)
    body = anatomy.of(model)
    optimizer = AdamwConfig(learning_rate=0.01).build(body, total_steps=steps)
    with started.holding(body, optimizer):
        for batch in batches_of(body, count=steps):
            Squares()(body, batch).total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    facts = started.finish_(100)
    return model, facts, before


def test_some_are_listed() -> None:
    """Catches a filter that lets nothing through."""
    assert {"spdf", "sltrain", "magnitude", "n-m-sparsity"} <= {slug_of(method) for method in METHODS}


@every_method
@every_family
def test_an_ordinary_model_comes_out(method: Any, family: str, tmp_path: Path) -> None:
    """Catches a model with parts of the training left in it, one that does not learn, and one that loads as another."""
    model, facts, before = trained(config_of(method), family)
    assert facts
    state, old = model.state_dict(), before.state_dict()
    assert state.keys() == old.keys()
    assert {name for name, _ in model.named_modules()} == {name for name, _ in before.named_modules()}
    assert [type(module) for module in model.modules()] == [type(module) for module in before.modules()]
    for name, parameter in anatomy.of(model).matrices():
        assert not torch.equal(parameter, old[name]) and parameter.requires_grad
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    body = anatomy.of(model.eval())
    inputs = example_inputs(body)
    assert torch.equal(outputs_of(anatomy.of(again), inputs), outputs_of(body, inputs))


@every_method
def test_the_seed_decides(method: Any) -> None:
    """Catches a choice that is not that of the seed, and one that is the same for every seed."""
    if method.model_fields["method"].default not in ("spdf", "sltrain"):
        pytest.skip("it goes by the weights, which the seed has made")
    one, same, other = (trained(config_of(method), "llama-grouped-untied", seed=seed)[0] for seed in (1, 1, 2))
    name = anatomy.of(one).matrices()[0][0]
    assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


@every_method
def test_what_is_outside_the_maps_is_left(method: Any) -> None:
    """Catches embeddings, norms and biases that are made sparse."""
    model = tiny_model("gpt2")
    before = copy.deepcopy(model).state_dict()
    started = config_of(method).start_(model, 0)
    started.finish_(1)
    inside = {name for name, _ in anatomy.of(model).matrices()}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name not in inside)
