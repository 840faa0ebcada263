"""Round to nearest on whole models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pomona import anatomy
from pomona.ground.errors import ConfigError, PomonaError
from pomona.quantization.grid import Grid
from pomona.quantization.rtn import RoundToNearestConfig, quantize_rtn_, round_to_nearest

Build = Callable[..., Any]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_every_linear_map_of_the_blocks_and_nothing_else(family: str, build: Build) -> None:
    """Catches weights that are missed, and embeddings, norms, biases or heads that are touched."""
    model, original = build(family), build(family)
    report = RoundToNearestConfig(bits=3, group_size=16).apply_(model)
    assert len(report.weights) == len(anatomy.of(model).weights())
    names = {weight.name for weight in report.weights}
    after = dict(model.named_parameters())
    for name, before in original.named_parameters():
        assert torch.equal(after[name], before) == (name not in names)
    for weight, before, entry in zip(
        anatomy.of(model).weights(), anatomy.of(original).weights(), report.weights, strict=True
    ):
        expected = round_to_nearest(before.read(), Grid(3, 16))
        assert torch.equal(weight.read(), expected.dequantize())
        assert torch.equal(entry.quantized.codes, expected.codes)


def test_transposed_storage_gives_the_same_matrix(build: Build) -> None:
    """Catches grids that run along the wrong axis of Conv1D, and fused slices that share one grid."""
    model = build("gpt2")
    block = anatomy.of(model).blocks[0]
    matrices = [weight.read().clone() for weight in block.weights()]
    quantize_rtn_(model, RoundToNearestConfig(bits=4, group_size=8))
    for weight, matrix in zip(block.weights(), matrices, strict=True):
        linear = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
        linear.weight.data.copy_(matrix)
        assert torch.equal(weight.read(), round_to_nearest(linear.weight.detach(), Grid(4, 8)).dequantize())


def test_tied_weights_are_quantized_once(build: Build) -> None:
    """Catches a second rounding of a matrix that two blocks share."""
    model = build("llama")
    layers = model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    report = quantize_rtn_(model, RoundToNearestConfig(bits=2))
    assert [weight.name for weight in report.weights].count("model.layers.0.mlp.up_proj.weight") == 1
    assert len(report.weights) == 13
    assert layers[1].mlp.up_proj.weight is layers[0].mlp.up_proj.weight


def test_skipped_roles_stay_as_they_are(build: Build) -> None:
    """Catches a skip list that is ignored, for a single role and for a whole part."""
    model, original = build("llama"), build("llama")
    report = RoundToNearestConfig(skip=("attention", "ffn.down")).apply_(model)
    assert {weight.role for weight in report.weights} == {"ffn.up", "ffn.gate"}
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight, original.model.layers[0].mlp.down_proj.weight)


def test_bits_per_weight_counts_scales_and_zero_points(build: Build) -> None:
    """Catches a report that forgets what the grid itself costs."""
    report = RoundToNearestConfig(bits=4, group_size=8).apply_(build("llama"))
    assert report.bits_per_weight == pytest.approx(4 + (32 + 4) / 8)
    report = RoundToNearestConfig(bits=4, group_size=8, symmetric=True).apply_(build("llama", dtype=torch.bfloat16))
    assert report.bits_per_weight == pytest.approx(4 + 16 / 8)
    values = report.to_dict()
    assert values["method"] == "rtn" and len(values["weights"]) == 14 and "quantized" not in values["weights"][0]


def test_more_bits_less_error(build: Build, batches: list[dict[str, torch.Tensor]]) -> None:
    """Catches a width that is not used: at 8 bits the logits barely move."""
    original = build("llama")
    errors = []
    for bits in (2, 4, 8):
        model = build("llama")
        RoundToNearestConfig(bits=bits, group_size=16).apply_(model)
        with torch.no_grad():
            errors.append((model(**batches[0]).logits - original(**batches[0]).logits).square().mean().item())
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 1e-3


def test_refusals(build: Build) -> None:
    """Catches bad parameters that are found only after the model was changed."""
    with pytest.raises(ConfigError, match=r"bits.*2 to 8 bits"):
        RoundToNearestConfig.parse({"bits": 9})
    with pytest.raises(ConfigError, match="null means whole rows"):
        RoundToNearestConfig.parse({"group_size": -1})
    with pytest.raises(ConfigError, match="did you mean 'group_size'"):
        RoundToNearestConfig.parse({"groupsize": 64})
    model, original = build("llama"), build("llama")
    with pytest.raises(ConfigError, match=r"did you mean 'ffn\.down'"):
        RoundToNearestConfig(skip=("ffn.dwn",)).apply_(model)
    with pytest.raises(ConfigError, match="every weight is skipped"):
        RoundToNearestConfig(skip=("attention", "ffn")).apply_(model)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 3] = torch.inf
    with pytest.raises(PomonaError, match=r"layers\.1\.mlp\.down_proj\.weight is not finite"):
        RoundToNearestConfig().apply_(model)
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, original.model.layers[0].self_attn.q_proj.weight)
