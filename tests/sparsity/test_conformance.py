"""What every pruning method keeps to, on models of many shapes. New methods join by being listed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.check import difference
from pomona.anatomy.probes.lab import outputs_of
from pomona.anatomy.tiny import tiny_model
from pomona.ground.errors import ConfigError, DataError, UnsupportedModel
from pomona.sparsity import PruningConfig, SparsityReport
from tests.conformance import assert_same_model, methods_of, slug_of
from tests.sparsity.models import (
    FAMILIES,
    Distance,
    Squares,
    batches_of,
    outputs,
    state_of,
    telling,
    unchanged,
    without,
)

EVERY: list[Any] = methods_of("sparsity")
METHODS: list[Any] = [method for method in EVERY if issubclass(method, PruningConfig)]
"""Those that make a trained model smaller; what trains sparse from the start is in `test_start.py`."""
EXACT = 1e-9
"""Largest relative difference in float64 of what is the same function; taps at experts add differences."""
NORMS_OVER_HEADS = ("olmo2",)
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)
every_family = pytest.mark.parametrize("family", FAMILIES)


def config_of(method: type[PruningConfig]) -> PruningConfig:
    """Settings that remove something of the smallest parts, too."""
    names = method.model_fields
    settings: dict[str, Any] = {"fraction": 0.5} if "fraction" in names else {}
    settings |= {"tolerance": 0.5, "step": 0.25, "resolution": 0.1} if "tolerance" in names else {}
    return method(**settings)


def prune(config: PruningConfig, body: Anatomy) -> SparsityReport:
    return config.apply_(body, batches_of(body), loss_for(config))


def loss_for(config: PruningConfig) -> Squares:
    """A loss that pruning raises where a method looks for what costs nothing; else one with a gradient."""
    return Distance() if "tolerance" in type(config).model_fields else Squares()


def refused(config: PruningConfig, family: str) -> bool:
    return config.method == "head-removal" and family in NORMS_OVER_HEADS


@every_method
@every_family
def test_masked_equals_cut(method: type[PruningConfig], family: str) -> None:
    """Catches a weight that is not cut, is cut elsewhere, or keeps an old size, units that are cut and not told, and
    a report that counts wrongly: what is left computes what the whole model does with the rest masked."""
    config, body = config_of(method), telling(family)
    whole = anatomy.of(copy.deepcopy(body.model))
    if refused(config, family):
        with pytest.raises(UnsupportedModel, match="norm over"):
            prune(config, body)
        assert unchanged(body, state_of(whole))
        return
    report = prune(config, body)
    assert report.cuts and all(0 < cut.after <= cut.before for cut in report.cuts)
    assert report.parameters_before == whole.parameter_count()
    assert report.parameters_after == body.parameter_count()
    assert report.removed > 0.03
    if report.zeros:
        state = state_of(body)
        zeros = sum(int((value == 0).sum()) for value in state.values())
        assert zeros == report.zeros + sum(int((value == 0).sum()) for value in state_of(whole).values())
        for name, value in state_of(whole).items():
            assert torch.equal(state[name], value.masked_fill(state[name] == 0, 0)), "other weights moved"
    else:
        expected = without(whole, report)
        assert difference(outputs(body), expected) < EXACT
        assert difference(outputs(whole), expected) > 1e-3, "what was masked has an effect"


@every_method
@pytest.mark.parametrize("family", ["llama-grouped-untied", "gpt2", "mixtral", "bert", "t5-gated"])
def test_the_folder_and_the_rehearsal_are_what_the_report_says(
    method: type[PruningConfig], family: str, tmp_path: Path
) -> None:
    """Catches a plan that promises another loader or size than what is made, and a folder that does not load."""
    config, model = config_of(method), tiny_model(family)
    model.save_pretrained(tmp_path / "whole")
    shadow, body = anatomy.shadow(tmp_path / "whole"), anatomy.of(model)
    loader = config.rehearse_(shadow)
    report = prune(config, body)
    assert loader == report.loads_with
    assert anatomy.of(shadow).parameter_count() == report.parameters_after
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval() if loader == "transformers" else anatomy.load(tmp_path)
    inputs = example_inputs(body)
    assert_same_model(again, model, outputs_of(anatomy.of(again), inputs), outputs_of(body, inputs))


@every_method
def test_deterministic(method: type[PruningConfig]) -> None:
    """Catches randomness without a seed, and ties that depend on the machine."""
    one, other = telling("qwen3"), telling("qwen3")
    assert prune(config_of(method), one).cuts == prune(config_of(method), other).cuts
    assert unchanged(one, state_of(other))


@every_method
def test_training_mode_and_frozen_weights_stay(method: type[PruningConfig]) -> None:
    """Catches calibration that leaves the model in evaluation mode, or gradients behind, or needs trainable weights."""
    body = telling("gpt2")
    body.model.train().requires_grad_(False)
    prune(config_of(method), body)
    assert body.model.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in body.model.parameters())


@pytest.mark.parametrize("method", [method for method in METHODS if config_of(method).needs_batches], ids=slug_of)
def test_data_is_asked_for_and_counted(method: type[PruningConfig]) -> None:
    """Catches scores of nothing, an objective that is guessed, and passes that cost nothing in the ledger."""
    config, body = config_of(method), telling("llama-grouped-untied")
    before = state_of(body)
    with pytest.raises(DataError, match="give calibration batches"):
        config.apply_(body, [], Squares())
    with pytest.raises(ConfigError, match="objective"):
        config.apply_(body, batches_of(body))
    assert unchanged(body, before)
    report = config.apply_(body, batches_of(body), loss_for(config))
    assert report.tokens == 2 * 2 * 8
    whole = telling("llama-grouped-untied")
    forward = report.tokens * whole.flops_per_token(8, training=False)
    assert 0.8 * config.passes * forward < report.flops < 1.3 * config.passes * forward
