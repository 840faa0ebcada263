"""Export to the compressed-tensors format and back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pomona.ground.errors import ConfigError, DamagedArtefact, StorageError
from pomona.quantization.export import Export, check_export, load_compressed, save_compressed
from pomona.quantization.gptq import GptqConfig
from pomona.quantization.report import QuantizationReport
from pomona.quantization.rtn import RoundToNearestConfig
from tests.quantization.conftest import build_model

Build = Callable[..., Any]

READER = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
import transformers

found = {}
for case in sys.argv[1:]:
    kind = case.split("-")[0]
    inputs = load_file(case + "/inputs.safetensors")["input_ids"]
    logits = {}
    for form in ("dense", "packed"):
        model = getattr(transformers, kind).from_pretrained(case + "/" + form).eval()
        with torch.no_grad():
            logits[form] = model(input_ids=inputs).logits
    save_file(logits, case + "/logits.safetensors")
    found[case] = sorted(name for name, module in model.named_modules() if hasattr(module, "quantization_scheme"))
assert not any(name.split(".")[0] == "pomona" for name in sys.modules)
print(json.dumps(found))
"""


@dataclass
class Case:
    """A quantized model, what was exported of it, and what plain transformers made of the folder."""

    model: Any
    report: QuantizationReport
    export: Export
    logits: dict[str, torch.Tensor]
    found: list[str]


def _mixed(model: Any) -> QuantizationReport:
    """Two symmetric grids and some weights that are skipped."""
    one = RoundToNearestConfig(bits=4, group_size=16, symmetric=True, skip=("ffn", "attention.output"))
    two = RoundToNearestConfig(bits=8, symmetric=True, skip=("attention", "ffn.up"))
    return QuantizationReport("rtn", {}, one.apply_(model).weights + two.apply_(model).weights)


def _tied(model: Any) -> QuantizationReport:
    layers = model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    return RoundToNearestConfig(bits=4, group_size=16).apply_(model)


def _plain(**parameters: Any) -> Callable[[Any], QuantizationReport]:
    return lambda model: RoundToNearestConfig(**parameters).apply_(model)


# 56 = 3 * 16 + 8 inputs of ffn.down in the llama: a shorter last group, stored as groups of 8
CASES: dict[str, tuple[str, torch.dtype, Callable[[Any], QuantizationReport]]] = {
    "LlamaForCausalLM-groups": ("llama", torch.float32, _plain(bits=4, group_size=16)),
    "LlamaForCausalLM-symmetric-bf16": ("llama", torch.bfloat16, _plain(bits=4, group_size=16, symmetric=True)),
    "LlamaForCausalLM-mixed": ("llama", torch.float32, _mixed),
    "LlamaForCausalLM-tied": ("llama", torch.float32, _tied),
    "BertForMaskedLM-rows": ("bert", torch.float32, _plain(bits=3)),
    "BertForMaskedLM-rows-symmetric": ("bert", torch.float32, _plain(bits=5, symmetric=True)),
    "GPT2LMHeadModel-dense": ("gpt2", torch.float32, _plain(bits=4, group_size=16)),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """All cases at once: one process without pomona reads every folder, as importing transformers takes long."""
    place = tmp_path_factory.mktemp("export")
    inputs = torch.randint(0, 96, (2, 11), generator=torch.Generator().manual_seed(1))
    made = {}
    for name, (family, dtype, quantize) in CASES.items():
        model = build_model(family, dtype=dtype)
        report = quantize(model)
        export = save_compressed(model, report, place / name / "packed")
        if name.endswith("tied"):  # transformers refuses to save weights that it does not know to be tied
            layers = model.model.layers
            layers[1].mlp.up_proj.weight = torch.nn.Parameter(layers[0].mlp.up_proj.weight.detach().clone())
        model.save_pretrained(place / name / "dense")
        save_file({"input_ids": inputs}, place / name / "inputs.safetensors")
        made[name] = (model, report, export)
    result = subprocess.run(
        [sys.executable, "-c", READER, *made], capture_output=True, text=True, cwd=place, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    return {name: Case(*made[name], load_file(place / name / "logits.safetensors"), found[name]) for name in made}


@pytest.mark.parametrize("name", CASES)
def test_plain_transformers_computes_the_same_logits(name: str, cases: dict[str, Case]) -> None:
    """Catches a folder that only pomona can read, or that other tools read as other numbers."""
    case = cases[name]
    assert case.logits["packed"].dtype == CASES[name][1]
    assert torch.equal(case.logits["packed"], case.logits["dense"])
    # asymmetric weights are expanded while they are loaded, symmetric ones stay compressed until they are used
    symmetric = all(weight.quantized.symmetric for weight in case.report.weights)
    assert case.found == (sorted(case.export.packed) if symmetric else [])


def test_every_linear_layer_is_packed(cases: dict[str, Case]) -> None:
    """Catches weights that are quietly stored dense; a tied weight appears under both names."""
    for name, case in cases.items():
        if not name.startswith("GPT2"):
            assert not case.export.dense
            assert len(case.export.packed) == len(case.report.weights) + name.endswith("tied")


def test_conv1d_is_stored_dense_and_said_so(cases: dict[str, Case]) -> None:
    """Catches transposed or fused weights that are packed as if they were nn.Linear."""
    export = cases["GPT2LMHeadModel-dense"].export
    assert not export.packed and len(export.dense) == 8
    assert export.dense["transformer.h.0.attn.c_attn.weight"] == "one parameter holds several weights"
    assert export.dense["transformer.h.1.mlp.c_fc.weight"] == "stored transposed"
    with pytest.raises(ConfigError, match="does not hold packed weights"):
        load_compressed(export.folder)


def test_wasteful_groups_are_stored_dense(build: Build, tmp_path: Path) -> None:
    """Catches a packed form that is larger than the weights."""
    model = build("llama")
    report = RoundToNearestConfig(bits=8, group_size=25, symmetric=True).apply_(model)
    export = save_compressed(model, report, tmp_path / "model")
    # 32 columns in groups of 25 share no divisor: every column would need its own scale
    assert "more space" in export.dense["model.layers.0.self_attn.q_proj.weight"]
    assert not export.packed


def test_one_asymmetric_scheme_per_model(build: Build, tmp_path: Path) -> None:
    """Catches a second scheme that transformers would read by the first one's bits."""
    model = build("llama")
    one = RoundToNearestConfig(bits=4, skip=("ffn",)).apply_(model)
    two = RoundToNearestConfig(bits=8, skip=("attention",)).apply_(model)
    report = QuantizationReport("rtn", {}, one.weights + two.weights)
    export = save_compressed(model, report, tmp_path / "model")
    assert len(export.packed) == 8 and "one asymmetric scheme" in export.dense["model.layers.0.mlp.up_proj.weight"]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [False, True])
def test_loaded_weights_equal_those_that_were_saved(bits: int, symmetric: bool, build: Build, tmp_path: Path) -> None:
    """Catches lost bits, scales or zero points for every width."""
    model = build("llama", dtype=torch.float16)
    report = RoundToNearestConfig(bits=bits, group_size=16, symmetric=symmetric).apply_(model)
    save_compressed(model, report, tmp_path)
    loaded = load_compressed(tmp_path)
    assert sorted(loaded) == sorted(weight.name.removesuffix(".weight") for weight in report.weights)
    for weight in report.weights:
        again = loaded[weight.name.removesuffix(".weight")]
        assert torch.equal(again.codes, weight.quantized.codes)
        assert (again.bits, again.symmetric) == (bits, symmetric)
        assert torch.equal(again.dequantize(torch.float16), model.get_parameter(weight.name))


def test_folder_is_small(build: Build, tmp_path: Path) -> None:
    """Catches dense copies that are stored beside the codes."""
    model = build("llama")
    RoundToNearestConfig().apply_(model)
    model.save_pretrained(tmp_path / "dense")
    dense = (tmp_path / "dense" / "model.safetensors").stat().st_size
    report = RoundToNearestConfig(bits=4).apply_(model)
    export = save_compressed(model, report, tmp_path / "packed")
    saved = sum(weight.outputs * weight.inputs for weight in report.weights) * (32 - report.bits_per_weight) / 8
    assert dense - export.bytes == pytest.approx(saved, rel=0.1)


def test_column_orders_are_refused(build: Build, tmp_path: Path, batches: list[dict[str, torch.Tensor]]) -> None:
    """Catches a folder whose groups are read in the wrong order."""
    config = GptqConfig(group_size=16, act_order=True)
    with pytest.raises(ConfigError, match="static_groups: true"):
        check_export(config)
    check_export(GptqConfig(group_size=16, act_order=True, static_groups=True))
    check_export(GptqConfig(act_order=True))
    model = build("llama")
    report = config.apply_(model, batches)
    with pytest.raises(ConfigError, match="not consecutive columns"):
        save_compressed(model, report, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_damage_is_named(build: Build, tmp_path: Path) -> None:
    """Catches a truncated or incomplete folder that is read as something else."""
    model = build("llama")
    save_compressed(model, RoundToNearestConfig(group_size=16).apply_(model), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.down_proj"
    save_file({key: value for key, value in tensors.items() if key != f"{name}.weight_scale"}, file)
    with pytest.raises(DamagedArtefact, match=rf"{name} .* is incomplete[\s\S]*weight_scale"):
        load_compressed(tmp_path)
    save_file({**tensors, f"{name}.weight_packed": tensors[f"{name}.weight_packed"][:, :-1].contiguous()}, file)
    with pytest.raises(DamagedArtefact, match=f"{name} .* is damaged"):
        load_compressed(tmp_path)


def test_unwritable_folder(build: Build, tmp_path: Path) -> None:
    """Catches a bare operating-system error."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    model = build("llama")
    report = RoundToNearestConfig().apply_(model)
    with pytest.raises(StorageError, match="a file is in the way"):
        save_compressed(model, report, blocker / "model")
