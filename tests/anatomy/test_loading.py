"""Folders of edited models: loaded by transformers where it can express them, by pomona always, and never half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pomona.anatomy import load, of, shadow
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.lab import outputs_of
from pomona.anatomy.tiny import TINY
from pomona.ground.errors import DamagedArtefact, DataError
from tests.conformance import assert_same_model

from .conftest import TOWERS, make, shape_in
from .test_edits import CUTS, cut_, planned


@pytest.mark.parametrize("cut", ["alike", "varied"])
@pytest.mark.parametrize("name", TOWERS)
def test_saved_and_loaded(name: str, cut: str, tmp_path: Path) -> None:
    """Breaks when a plan names the wrong loader, when sizes are not applied, or transformers loads something else."""
    model, shape = make(name), shape_in(name)
    body = of(model, shape)
    plan = planned(body, CUTS[cut](body))
    cut_(body, CUTS[cut](body))
    inputs = example_inputs(body)
    expected = outputs_of(body, inputs)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert type(loaded) is type(model) and not loaded.training
    assert_same_model(loaded, model, outputs_of(of(loaded, shape), inputs), expected)
    auto = getattr(transformers, TINY[name.partition("/")[0]].auto)
    if plan.loads_with == "transformers":
        again = auto.from_pretrained(tmp_path).eval()
        assert_same_model(again, model, outputs_of(of(again, shape), inputs), expected)
    else:
        with pytest.raises(RuntimeError, match=r"size mismatch|mismatched"):
            auto.from_pretrained(tmp_path)
    assert {n: p.shape for n, p in shadow(tmp_path).named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    assert cut == "alike" or plan.loads_with == "pomona"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose blocks differ, in several files."""
    model = make("qwen2")
    cut_(of(model), CUTS["varied"](of(model)))
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    return tmp_path / "model"


def test_what_is_loaded_is_an_ordinary_model(folder: Path, tmp_path: Path) -> None:
    """Breaks when a loaded model cannot be edited, saved or loaded again."""
    model = load(folder, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16 and load(folder, dtype=None).dtype == torch.float32
    body = of(model)
    with body.edit() as edit:
        for block in body.blocks:
            edit.keep(block.ffn.features, range(11))
    model.save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"] and config["intermediate_size"] == 11
    assert "pomona" not in config, "now that blocks are alike, the fields say it all"
    assert load(tmp_path / "again", dtype=None).dtype == torch.bfloat16


def test_the_record_is_plain_data(folder: Path) -> None:
    """Breaks when something other than names and numbers is written down, or when a folder would run code."""
    config = json.loads((folder / "config.json").read_text())
    record = config["pomona"]
    assert (record["format"], record["shape"]) == (1, "llama") and "auto_map" not in config
    assert record["sizes"]["model.layers.1"] == {"feed_forward": 24}
    assert sorted(file.suffix for file in folder.iterdir() if file.suffix != ".safetensors") == [".json"] * 3


def change(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"format": 3, "sizes": {}}, "version of pomona that wrote it"),
        ({"format": 1, "sizes": {"model.layers.0": {"feed_forward": "28"}}}, "cannot be read"),
        ({"format": 1, "sizes": {"model.layers.0": {"feed_forward": -1}}}, "cannot be read"),
        ("28", "cannot be read"),
        ({"format": 1, "shape": "llama", "sizes": {"model.layers.9": {"feed_forward": 28}}}, r"'model\.layers\.9'"),
        ({"format": 1, "shape": "llama", "sizes": {"model.layers.0": {"gates": 28}}}, "gates of 'model"),
    ],
)
def test_records_that_do_not_fit(folder: Path, record: Any, message: str) -> None:
    """Breaks when a damaged record is applied in part, or fails deep in torch."""
    change(folder, pomona=record)
    with pytest.raises(DataError, match=message):
        load(folder)


def test_weights_that_do_not_fit(folder: Path) -> None:
    """Breaks when weights that are absent, or of another size, are silently random."""
    change(folder, pomona={"format": 1, "shape": "llama", "sizes": {"model.layers.0": {"feed_forward": 13}}})
    with pytest.raises(DamagedArtefact, match="cannot load"):
        load(folder)
    whole = folder.parent / "whole"
    make("llama").save_pretrained(whole)
    tensors = load_file(whole / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, whole / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DamagedArtefact, match=r"nothing at model\.layers\.1\.mlp\.up_proj\.weight"):
        load(whole)
