"""What every quantization method keeps to. New methods join by being listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pomona import anatomy
from pomona.ground.errors import ConfigError
from pomona.quantization import QuantizationReport, save_compressed
from pomona.quantization.config import GridConfig
from tests.conformance import methods_of, slug_of
from tests.quantization.conftest import FAMILIES, build_model

METHODS: list[Any] = methods_of("quantization")
GROUP = 8
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)
every_family = pytest.mark.parametrize("family", FAMILIES)
Batches = list[dict[str, torch.Tensor]]


def quantize(model: Any, method: type[GridConfig], batches: Batches, **settings: Any) -> QuantizationReport:
    report: QuantizationReport = method(**settings).apply_(model, batches)  # type: ignore[attr-defined]
    return report


def logits(model: Any, batches: Batches) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**batches[0]).logits
    return found


@every_method
@every_family
def test_what_is_told_is_what_was_done(method: type[GridConfig], family: str, batches: Batches) -> None:
    """Catches weights that are off the grid or not those of the codes, and changes that the report does not name."""
    model, before = build_model(family), dict(build_model(family).named_parameters())
    report = quantize(model, method, batches, bits=3, group_size=GROUP)
    told = {weight.name for weight in report.weights}
    after = dict(model.named_parameters())
    assert {name for name in before if not torch.equal(before[name], after[name])} == told
    for weight in anatomy.of(model).weights():
        groups = weight.read().unflatten(1, (-1, GROUP)).flatten(0, 1)
        assert max(len(group.unique()) for group in groups) <= 2**3
    by_name = {(entry.name, entry.role): entry for entry in report.weights}
    for weight in anatomy.of(model).weights():
        assert torch.equal(by_name[weight.name, weight.role].quantized.dequantize(), weight.read())


@every_method
@every_family
def test_many_bits_lose_almost_nothing(method: type[GridConfig], family: str, batches: Batches) -> None:
    """Catches a width that is not used, and a model that is broken rather than rounded."""
    expected = logits(build_model(family), batches)
    errors = {}
    for bits in (2, 4, 8):
        model = build_model(family)
        quantize(model, method, batches, bits=bits, group_size=GROUP)
        errors[bits] = float((logits(model, batches) - expected).norm() / expected.norm())
    assert errors[8] < 0.02 < errors[2] and errors[8] < errors[4] < errors[2]


@every_method
def test_same_input_same_result(method: type[GridConfig], batches: Batches) -> None:
    """Catches a result that depends on anything but model and batches, and batches or modes that are changed."""
    kept = [batch["input_ids"].clone() for batch in batches]
    models = [build_model("llama"), build_model("llama")]
    for model in models:
        quantize(model, method, batches, group_size=GROUP)
        assert not model.training and all(parameter.requires_grad for parameter in model.parameters())
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(batch["input_ids"], ids) for batch, ids in zip(batches, kept, strict=True))


@every_method
@every_family
def test_saved_and_loaded(method: type[GridConfig], family: str, batches: Batches, tmp_path: Path) -> None:
    """Catches codes that are stored as something else than what the model computed with."""
    model = build_model(family)
    report = quantize(model, method, batches, group_size=GROUP)
    save_compressed(model, report, tmp_path)
    torch.testing.assert_close(logits(anatomy.load(tmp_path), batches), logits(model, batches))
    assert 4 < report.bits_per_weight < 4 + 40 / GROUP and report.seconds > 0
    values = report.to_dict()
    assert values["method"] == slug_of(method) and len(values["weights"]) == len(report.weights)


@every_method
def test_refusals(method: type[GridConfig], batches: Batches) -> None:
    """Catches a model that is half quantized when it is refused, and a list that leaves nothing to do."""
    model, before = build_model("llama"), build_model("llama").state_dict()
    for settings, message in (({"skip": ("atention",)}, "has the role"), ({"skip": ("attention", "ffn")}, "skipped")):
        with pytest.raises(ConfigError, match=message):
            quantize(model, method, batches, **settings)
    for settings in ({"bits": 9}, {"bits": 1}, {"group_size": 0}):
        with pytest.raises(ValueError, match=r"bits|group"):
            method(**settings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
