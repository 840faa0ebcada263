"""GPTQ on whole models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy.taps import tap_inputs
from pomona.ground.errors import ConfigError, DataError, UnsupportedModel
from pomona.quantization import gptq as method
from pomona.quantization.gptq import GptqConfig, gptq_
from pomona.quantization.hessian import RunningHessian, weighted_error
from pomona.quantization.rtn import RoundToNearestConfig
from pomona.quantization.solver import gptq_solve

Build = Callable[..., Any]
Batches = list[dict[str, Tensor]]
FAMILIES = ["llama", "gpt2", "bert"]


def hessians(model: Any, batches: Batches, rows: Callable[[Tensor, int], Tensor] = lambda x, _: x) -> list[Tensor]:
    """H of every linear map of the blocks by running the whole model, without any sharing or block walk."""
    weights = anatomy.of(model).weights()
    running = [RunningHessian(weight.shape[1]) for weight in weights]
    for number, batch in enumerate(batches):
        for weight, hessian in zip(weights, running, strict=True):
            with tap_inputs(weight, lambda x, h=hessian, n=number: h.add(rows(x, n))), torch.no_grad():
                model(**batch)
    return [hessian.value() for hessian in running]


def mean_square(model: Any, original: Any, batches: Batches) -> float:
    with torch.no_grad():
        errors = [(model(**batch).logits - original(**batch).logits).square().mean() for batch in batches]
    return torch.stack(errors).mean().item()


@pytest.mark.parametrize("family", FAMILIES)
def test_first_block_is_solved_for_its_own_inputs(family: str, build: Build, batches: Batches) -> None:
    """Catches Hessians of the wrong input (a shared one that is not shared), and wrong orientation of Conv1D."""
    model, original = build(family), build(family)
    config = GptqConfig(bits=3, group_size=8)
    report = config.apply_(model, batches)
    assert len(report.weights) == len(anatomy.of(model).weights())
    assert report.tokens == 4 * 8 * 16 and report.flops > 0 and report.seconds > 0
    block = anatomy.of(original).blocks[0].weights()
    entries = {entry.role: entry for entry in report.weights[: len(block)]}
    for weight, hessian in zip(block, hessians(original, batches), strict=False):
        ours = anatomy.of(model).blocks[0].weights()[block.index(weight)].read()
        assert torch.equal(ours, entries[weight.role].quantized.dequantize())
        exact = gptq_solve(weight.read(), hessian, config.grid).weight.dequantize()
        error = weighted_error((weight.read() - ours).double(), hessian.double())
        # where the calibration rounds differently, later codes of a row differ; in 32 rows the errors vary by percents
        assert error <= 1.1 * weighted_error((weight.read() - exact).double(), hessian.double())
        assert error == pytest.approx(entries[weight.role].error, rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_later_blocks_see_what_quantized_blocks_compute(family: str, build: Build, batches: Batches) -> None:
    """Catches calibration of later blocks on the full-precision model's inputs."""
    model, original = build(family), build(family)
    report = GptqConfig(bits=2).apply_(model, batches)
    half = build(family)
    for target, source in zip(anatomy.of(half).blocks[0].weights(), anatomy.of(model).blocks[0].weights(), strict=True):
        target.write_(source.read())
    blocks = len(anatomy.of(model).blocks[0].weights())
    for position in (blocks, 2 * blocks - 1):  # the query, and the last linear map, of the second block
        weight = anatomy.of(original).weights()[position].read()
        entries = [e for e in report.weights if e.role == anatomy.of(model).weights()[position].role]
        entry = entries[1]
        deviation = (weight - entry.quantized.dequantize()).double()
        assert entry.error is not None
        seen = weighted_error(deviation, hessians(half, batches)[position].double())
        unseen = weighted_error(deviation, hessians(original, batches)[position].double())
        assert abs(seen - entry.error) < 0.02 * entry.error < 0.5 * abs(unseen - entry.error)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {"bits": 3},
        {"bits": 2, "group_size": 8, "clip_search": True},
        {"bits": 4, "group_size": 16, "symmetric": True, "act_order": True, "static_groups": True},
        {"bits": 3, "group_size": 8, "act_order": True},
        {"bits": 3, "group_size": 12, "true_sequential": True},
    ],
)
def test_error_is_never_above_round_to_nearest(
    family: str, options: dict[str, Any], build: Build, batches: Batches
) -> None:
    """Catches any weight whose calibration objective is worse than rounding would have made it, for every option."""
    model = build(family)
    report = GptqConfig(**options).apply_(model, batches)
    for entry in report.weights:
        assert entry.error is not None and entry.error_rtn is not None
        assert entry.error <= entry.error_rtn
        assert int(entry.quantized.codes.max()) <= 2 ** options["bits"] - 1
    assert report.error is not None and report.error_rtn is not None and report.error < 0.9 * report.error_rtn


def test_round_to_nearest_is_kept_where_it_is_better(
    build: Build, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a guarantee that only the report keeps: with a spoiled solver the model must hold the rounded weights."""

    def spoiled(weight: Tensor, hessian: Tensor, grid: Any, **options: Any) -> Any:
        return gptq_solve(weight, hessian.flip(0, 1), grid, **options)

    monkeypatch.setattr(method, "gptq_solve", spoiled)
    model, nearest = build("llama"), build("llama")
    report = gptq_(model, batches, GptqConfig(bits=3))
    RoundToNearestConfig(bits=3).apply_(nearest)
    assert report.kept_rtn > 0
    for weight, rounded, entry in zip(
        anatomy.of(model).weights(), anatomy.of(nearest).weights(), sorted_like(model, report), strict=True
    ):
        assert entry.kept_rtn == torch.equal(weight.read(), rounded.read())
        assert not entry.kept_rtn or entry.error == entry.error_rtn


def sorted_like(model: Any, report: Any) -> list[Any]:
    """The report's weights in the order of the anatomy."""
    known = {(entry.name, entry.role): entry for entry in report.weights}
    return [known[weight.name, weight.role] for weight in anatomy.of(model).weights()]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_closer_than_with_round_to_nearest(family: str, build: Build, batches: Batches) -> None:
    """Catches a method that wins its own objective but not the model's outputs."""
    original, ours, theirs = build(family), build(family), build(family)
    held_out = [{"input_ids": batch["input_ids"].flip(1)} for batch in batches]
    GptqConfig(bits=3, group_size=16).apply_(ours, batches)
    RoundToNearestConfig(bits=3, group_size=16).apply_(theirs)
    assert mean_square(ours, original, held_out) < 0.9 * mean_square(theirs, original, held_out)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_padding_does_not_count(family: str, build: Build, batches: Batches) -> None:
    """Catches padding tokens in the Hessian: what stands in padded places must not matter."""
    results = []
    mask = torch.ones(8, 16, dtype=torch.int64)
    mask[:, 11:] = 0
    for filler in (3, 50):
        model = build(family)
        padded = [
            {"input_ids": torch.where(mask == 1, batch["input_ids"], filler), "attention_mask": mask}
            for batch in batches
        ]
        report = GptqConfig(bits=3).apply_(model, padded)
        assert report.tokens == 4 * 8 * 11
        results.append(torch.cat([weight.read().flatten() for weight in anatomy.of(model).weights()]))
    assert torch.equal(*results)


def test_parts_of_a_block_are_quantized_one_after_another(build: Build, batches: Batches) -> None:
    """Catches true_sequential without effect: the output projection must see the quantized values and queries."""
    original, model = build("llama"), build("llama")
    report = GptqConfig(bits=2, true_sequential=True).apply_(model, batches)
    half = build("llama")
    for role in ("query", "key", "value"):
        getattr(anatomy.of(half).blocks[0].attention, role).write_(
            getattr(anatomy.of(model).blocks[0].attention, role).read()
        )
    entry = next(entry for entry in report.weights if entry.role == "attention.output")
    weight = anatomy.of(original).blocks[0].attention.output.read()
    deviation = (weight - entry.quantized.dequantize()).double()
    assert weighted_error(deviation, hessians(half, batches)[3].double()) == pytest.approx(entry.error, rel=0.02)
    plain = GptqConfig(bits=2).apply_(build("llama"), batches)
    assert report.flops > 1.5 * plain.flops


def test_weights_with_one_input_share_one_hessian(
    build: Build, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches work done three times for query, key and value, and sharing by role instead of by input."""
    shapes: list[tuple[int, ...]] = []

    def watched(weight: Tensor, *args: Any, **options: Any) -> Any:
        shapes.append(tuple(weight.shape))
        return gptq_solve(weight, *args, **options)

    monkeypatch.setattr(method, "gptq_solve", watched)
    gptq_(build("llama"), batches, GptqConfig())
    # query, key, value: 32 + 16 + 16 rows; output; gate and up: 56 + 56 rows; down
    assert shapes == [(64, 32), (32, 32), (112, 32), (32, 56)] * 2


def test_tied_weights_are_quantized_once(build: Build, batches: Batches) -> None:
    """Catches a second quantization of a matrix that two blocks share."""
    model = build("llama")
    layers = model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    report = GptqConfig(bits=2).apply_(model, batches)
    assert [entry.name for entry in report.weights].count("model.layers.0.mlp.up_proj.weight") == 1
    assert len(report.weights) == 13
    entry = next(entry for entry in report.weights if entry.role == "ffn.up")
    assert torch.equal(layers[1].mlp.up_proj.weight, entry.quantized.dequantize())


def test_token_batches_and_order_of_batches(build: Build, batches: Batches) -> None:
    """Catches look-ahead tokens that reach the model, and results that depend on how calibration is batched."""
    plain, stream, joined = build("llama"), build("llama"), build("llama")
    config = GptqConfig(bits=4)
    config.apply_(plain, batches)
    extended = [{"tokens": torch.cat([batch["input_ids"], batch["input_ids"][:, :1]], 1)} for batch in batches]
    config.apply_(stream, iter(extended))
    for a, b in zip(anatomy.of(plain).weights(), anatomy.of(stream).weights(), strict=True):
        assert torch.equal(a.read(), b.read())
    report = config.apply_(joined, [{"input_ids": torch.cat([batch["input_ids"] for batch in batches])}])
    assert report.tokens == 4 * 8 * 16


def test_bfloat16_model_stays_bfloat16(build: Build, batches: Batches) -> None:
    """Catches scales that the stored dtype cannot hold, and a model whose dtype changes."""
    model = build("llama", dtype=torch.bfloat16)
    report = GptqConfig(bits=4, group_size=16).apply_(model, batches)
    assert report.kept_rtn <= 2
    for entry in report.weights:
        parameter = model.get_parameter(entry.name)
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, entry.quantized.dequantize(torch.bfloat16))
        assert torch.equal(entry.quantized.scale.bfloat16().float(), entry.quantized.scale)


def test_mode_and_gradients_are_left_as_they_were(build: Build, batches: Batches) -> None:
    """Catches a model that is left in evaluation mode, or with hooks."""
    model = build("llama").train()
    GptqConfig(skip=("ffn",)).apply_(model, batches)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_refusals(build: Build, batches: Batches) -> None:
    """Catches errors that come after the model was changed, or without the name of the weight."""
    model, original = build("llama"), build("llama")
    with pytest.raises(DataError, match="nothing to calibrate on"):
        GptqConfig().apply_(model, [])
    with pytest.raises(DataError, match="has no tokens"):
        GptqConfig().apply_(model, [{"labels": torch.zeros(1, 2)}])
    with pytest.raises(DataError, match="padding cannot be told"):
        GptqConfig().apply_(model, [{**batches[0], "attention_mask": torch.zeros(8, 1, 16, 16)}])
    with pytest.raises(ConfigError, match="did you mean"):
        GptqConfig(skip=("atention",)).apply_(model, batches)
    with pytest.raises(ConfigError, match=r"bits.*2 to 8 bits[\s\S]*damping"):
        GptqConfig.parse({"bits": 1, "damping": -1})
    with pytest.raises(ConfigError, match="static_groups fits before"):
        GptqConfig.parse({"static_groups": True, "reference_groups": True})
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, original.get_parameter(name))
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight.fill_(torch.inf)
    with pytest.raises(UnsupportedModel, match="cannot be walked"):
        GptqConfig().apply_(model, batches)
