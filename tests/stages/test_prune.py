"""The stage that prunes: from a recipe, from the command line and from Python, in a life with other stages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import pomona
from pomona import anatomy
from pomona.ground.errors import ConfigError
from pomona.ground.files import read_json
from pomona.stages import Run, call, load, run
from pomona.stages.base import ledger_flops
from pomona.stages.runner import prepare
from pomona.stages.store import Store

MODEL = {
    "shape": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip
TRAINING = {"batch_size": 4, "seq_length": 32, "steps": 4, "validation_tokens": 256}
DATA = {"seq_length": 32, "calibration_tokens": 512, "validation_tokens": 256}


def recipe(texts: Path, *later: Any) -> dict[str, Any]:
    return {
        "name": "orchard",
        "stages": [
            {"corpus": {"sources": [str(texts)], "validation": 0.1}},
            {"tokenize": {"vocab_size": 300}},
            {"pretrain": {"name": "whole", "model": MODEL, **TRAINING}},
            *later,
        ],
    }


@pytest.fixture(scope="module")
def life(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model that loses features, then heads, learns on, loses a block and half of its weights."""
    heads = {"method": "head-removal", "fraction": 0.5, "score": "magnitude"}
    stages = [
        {"prune": {"name": "narrow", "from": "whole", "fraction": 0.3, **DATA}},
        {"prune": {"name": "few-heads", **heads, **DATA}},
        {"continue": {"name": "healed", **TRAINING}},
        {"prune": {"name": "shallow", "method": "block-removal", **DATA}},
        {"prune": {"name": "sparse", "method": "n-m-sparsity", "pattern": "2:4", **DATA}},
        {"continue": {"name": "settled", **TRAINING}},
        {"prune": {"name": "slim", "fraction": 0.2, **DATA}},
        {"examine": {"models": ["whole", "slim"], "tokens": 256, "seq_length": 32, "decode_tokens": 2}},
        {"export": {"from": "slim", "title": "orchard"}},
        "report",
    ]
    return run(recipe(texts, *stages), out=tmp_path_factory.mktemp("runs"))


def test_a_pruned_model_is_a_model_like_any_other(life: Run) -> None:
    """Catches sizes that do not reach the folder, facts that later stages miss, and zeros that get lost on the way."""
    config = read_json(life["slim"].folder / "config.json")
    assert (config["intermediate_size"], config["num_key_value_heads"], config["num_hidden_layers"]) == (32, 1, 3)
    sizes = [life[name].facts["parameters"] for name in ("whole", "narrow", "few-heads", "healed", "shallow")]
    assert sizes == sorted(sizes, reverse=True) and sizes[2] == sizes[3] and len(set(sizes)) == 4
    export = AutoModelForCausalLM.from_pretrained(life["export"].folder)
    assert export.num_parameters() == life["slim"].facts["parameters"] < sizes[-1]
    assert life["sparse"].facts["zeros"] == read_json(life["sparse"].folder / "pruning.json")["zeros"] > 0
    up = export.model.layers[0].mlp.up_proj.weight.detach()
    assert bool(((up.view(len(up), -1, 4) != 0).sum(-1) == 2).all()), "training and cutting keep the pattern"
    assert 0 < life["slim"].facts["zeros"] < life["settled"].facts["zeros"] == life["sparse"].facts["zeros"]
    assert life["narrow"].facts["quality"]["nats_per_token"] > 0
    assert life["healed"].facts["read"]["runs"] == [[4, 4, 32], [4, 4, 32]], "it goes on in text it has not read"


def test_what_is_written_down(life: Run) -> None:
    """Catches scoring passes that cost nothing, and a report that does not say what was cut."""
    cost = life["narrow"].ledger()["purposes"]["prune"]
    assert cost["flops"] > 1e6 and cost["tokens"] == 512 and ledger_flops(life["narrow"].ledger()) == cost["flops"]
    assert life["few-heads"].ledger()["purposes"]["prune"]["tokens"] == 0
    told = read_json(life["narrow"].folder / "pruning.json")
    assert told["loads_with"] == "transformers" == life["narrow"].facts["loads_with"]
    assert [(cut["part"], cut["before"], cut["after"]) for cut in told["cuts"]] == [
        (f"feed_forward[48] of model.layers.{index}", 48, 40) for index in range(4)
    ]
    assert told["parameters_after"] == life["narrow"].facts["parameters"] < told["parameters_before"]
    report = read_json(life["report"].folder / "report.json")
    notes = [stage["facts"].get("note", "") for stage in report["arms"][0]["stages"]]
    assert any("2:4" in note or "50% of the weights zero" in note for note in notes)


def test_recipe_call_and_python_agree(life: Run, tmp_path: Path) -> None:
    """Catches doors that lead to different weights."""
    given = {"data": str(life["tokenize"].folder), **DATA, "fraction": 0.3}
    called = call("prune", {"from": str(life["whole"].folder), **given}, tmp_path / "called")
    made = pomona.prune(life["whole"].folder, **given, out=tmp_path / "python")  # type: ignore[attr-defined]
    expected = load_file(life["narrow"].folder / "model.safetensors")
    for folder in (called.folder, made.folder):
        weights = load_file(folder / "model.safetensors")
        assert weights.keys() == expected.keys()
        assert all(bool((value == expected[name]).all()) for name, value in weights.items())


def test_without_data(life: Run, tmp_path: Path) -> None:
    """Catches methods that ask for data which they do not use, and others that go without."""
    alone = shutil.copytree(life["whole"].folder, tmp_path / "alone")
    made = call("prune", {"from": str(alone), "method": "magnitude", "sparsity": 0.25}, tmp_path / "sparse")
    assert made.facts["quality"] is None and "25% of the weights zero" in made.facts["note"]
    with pytest.raises(ConfigError, match="--data: needs a tokens"):
        call("prune", {"from": str(alone), "method": "block-removal"}, tmp_path / "out", dashes=True)


def test_what_transformers_cannot_express(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a plan that is silent about the loader, and stages that stumble over blocks of different sizes."""
    stages = [
        {"prune": {"scope": "global", "fraction": 0.4, "score": "magnitude", "multiple_of": 1, **DATA}},
        {"examine": {"models": ["prune"], "tokens": 256, "seq_length": 32, "decode_tokens": 2}},
        {"export": {"from": "prune"}},
    ]
    made = run(recipe(texts, *stages), out=tmp_path)
    assert "only pomona.anatomy.load is sure to load it" in " ".join(capsys.readouterr().err.split())
    assert made["prune"].facts["loads_with"] == "pomona"
    body = anatomy.of(anatomy.load(made["export"].folder))
    assert body.parameter_count() == made["prune"].facts["parameters"]
    assert len({block.ffn.width for block in body.blocks}) > 1


def test_the_plan_finds_what_does_not_fit(texts: Path, tmp_path: Path) -> None:
    """Catches parameters that only fail after training, and a later stage that is checked against the whole model."""
    stages = [
        {"prune": {"name": "none", "from": "whole", "fraction": 0.01, **DATA}},
        {"prune": {"name": "odd", "from": "whole", "method": "n-m-sparsity", "pattern": "2:40", **DATA}},
        {"prune": {"name": "long", "from": "whole", **DATA, "seq_length": 128}},
        {"prune": {"name": "half", "from": "whole", "method": "block-removal", "fraction": 0.75, **DATA}},
        {"prune": {"name": "rest", "from": "half", "method": "block-removal", "fraction": 0.75, **DATA}},
    ]
    recipe_ = load(recipe(texts, *stages))
    with pytest.raises(ConfigError) as caught:
        prepare(recipe_, Store(tmp_path / recipe_.name))
    message = str(caught.value)
    for expected in (
        "stages.3.prune.method: ffn-removal would remove nothing",
        "stages.4.prune.method: n-m-sparsity cannot make model.layers.0.self_attn.q_proj.weight 2:40 sparse",
        "stages.5.prune.seq_length: 128 tokens are more than the model's 64 positions",
        "stages.7.prune.method: block-removal would remove nothing",
    ):
        assert expected in message, message
    assert "stages.6" not in message
