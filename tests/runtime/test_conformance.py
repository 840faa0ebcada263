"""What every accelerator keeps to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.lab import outputs_of
from pomona.anatomy.tiny import tiny_model
from pomona.ground.errors import PomonaError, UnsupportedModel
from pomona.runtime.accelerator import AcceleratorConfig
from tests.conformance import methods_of, slug_of

METHODS = methods_of("accelerator")
FAMILIES = ("llama", "qwen3", "gpt2", "gemma2", "bert", "t5", "vit", "deit", "dinov2")
"""Decoders with grouped heads, query norms, learned positions; windows and soft caps; encoders of text and images."""
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)


def model_of(family: str) -> Any:
    return tiny_model(family).eval()


def fits(config: AcceleratorConfig, model: Any) -> bool:
    try:
        config.check(anatomy.of(model))
    except UnsupportedModel:
        return False
    return True


def answers(model: Any) -> Tensor:
    """What the model gives for a few inputs, hidden states where it has no head."""
    body = anatomy.of(model)
    with torch.no_grad():
        return outputs_of(body, example_inputs(body, batch=2, tokens=24))


def fitting(config: AcceleratorConfig) -> dict[str, Any]:
    models = {family: model_of(family) for family in FAMILIES}
    return {family: model for family, model in models.items() if fits(config, model)}


@every_method
def test_nothing_is_lost_when_nothing_is_left_out(method: type[AcceleratorConfig]) -> None:
    """Catches an error of the fast path that a small budget would hide, on every family that fits, two at least."""
    config = method().unlimited()
    models = fitting(config)
    assert len(models) >= 2, f"fits {list(models)} only"
    for family, model in models.items():
        expected = answers(model)
        with config.attach(model):
            found = answers(model)
        torch.testing.assert_close(
            found, expected, rtol=1e-4, atol=1e-5, msg=lambda text, family=family: f"{family}: {text}"
        )


@every_method
def test_the_model_is_as_it_was(method: type[AcceleratorConfig]) -> None:
    """Catches a hook, kernel or buffer that stays: outputs and weights are equal to the last bit, after errors too."""
    config = method()
    for model in fitting(config).values():
        before, weights = answers(model), {name: value.clone() for name, value in model.state_dict().items()}
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        with config.attach(model):
            answers(model)
        with pytest.raises(ZeroDivisionError), config.attach(model):
            answers(model)
            raise ZeroDivisionError
        assert torch.equal(answers(model), before)
        assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@every_method
def test_deterministic(method: type[AcceleratorConfig]) -> None:
    """Catches chance, and a state that one run leaves to the next."""
    config = method()
    for model in fitting(config).values():
        runs = []
        for _ in range(2):
            with config.attach(model):
                runs.append(answers(model))
                runs.append(answers(model))
        assert all(torch.equal(run, runs[0]) for run in runs)


@every_method
def test_refuses_what_does_not_fit(method: type[AcceleratorConfig]) -> None:
    """Catches a method that runs on a model it does not fit, or touches it before it refuses."""
    config = method()
    refused = [family for family in FAMILIES if not fits(config, model_of(family))]
    assert refused
    for family in refused:
        model = model_of(family)
        before = answers(model)
        with pytest.raises(UnsupportedModel, match=r"needs:(.|\n)*do:"), config.attach(model):
            pass
        assert torch.equal(answers(model), before)


@every_method
def test_an_idle_accelerator_says_so(method: type[AcceleratorConfig]) -> None:
    """Catches a block in which the model never ran and nobody noticed."""
    config = method()
    model = next(iter(fitting(config).values()))
    with pytest.raises(PomonaError), config.attach(model):
        pass


@every_method
def test_plain_values(method: type[AcceleratorConfig]) -> None:
    """Catches a configuration that does not survive a recipe."""
    config = method()
    assert method.model_validate(config.model_dump(mode="json")) == config
