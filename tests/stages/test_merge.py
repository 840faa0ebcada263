"""The stage that merges: from a recipe, from the command line and from Python, with its checks and its card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import pomona
from pomona.ground.errors import ConfigError
from pomona.ground.files import read_json
from pomona.merging import merge
from pomona.stages import Run, call, run
from pomona.stages.base import ledger_flops
from pomona.stages.reporting import chain_of

MODEL = {
    "shape": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip
TRAINING = {"batch_size": 4, "seq_length": 32, "steps": 2, "validation_tokens": 256}


def recipe(texts: Path, **merging: Any) -> dict[str, Any]:
    return {
        "name": "modular",
        "stages": [
            {"corpus": {"sources": [str(texts)], "validation": 0.1}},
            {"tokenize": {"vocab_size": 300}},
            {"pretrain": {"name": "general", "model": MODEL, **TRAINING}},
            {"continue": {"name": "law", "from": "general", "seed": 1, **TRAINING}},
            {"continue": {"name": "code", "from": "general", "seed": 2, **TRAINING}},
            {"merge": {"name": "both", "base": "general", "experts": ["law", "code"], **merging}},
            {"examine": {"models": ["law", "both"], "tokens": 256, "seq_length": 32, "decode_tokens": 2}},
            {"export": {"from": "both", "title": "modular"}},
            "report",
        ],
    }


@pytest.fixture(scope="module")
def life(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A base, two experts, their merge, and what is said about it."""
    return run(recipe(texts, method="ties", density=0.4), out=tmp_path_factory.mktemp("runs"))


def weights(folder: Path) -> Any:
    return load_file(folder / "model.safetensors")


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(bool((value == other[name]).all()) for name, value in one.items())


def test_the_stage_is_the_function(life: Run, tmp_path: Path) -> None:
    """Catches doors that lead to different weights: recipe, call, Python and the function in memory."""
    base, law, code = (life[name].folder for name in ("general", "law", "code"))
    merged = weights(life["both"].folder)
    assert same(merged, merge(weights(base), [weights(law), weights(code)], "ties", density=0.4))
    values = {"base": str(base), "experts": [str(law), str(code)], "method": "ties", "density": 0.4}
    assert same(merged, weights(call("merge", values, tmp_path / "called").folder))
    made = pomona.merge(law, code, base=str(base), method="ties", density=0.4, out=tmp_path / "python")
    assert same(merged, weights(made.folder))
    one = pomona.merge(law, base=str(base), method="slerp", t=1.0, out=tmp_path / "one")
    assert same(weights(one.folder), weights(law))


def test_the_result_is_a_model_like_any_other(life: Run) -> None:
    """Catches facts that later stages need and that are missing, and a folder that transformers does not load."""
    facts = life["both"].facts
    assert facts["blocks"] == 2 and facts["objective"]["method"] == "next-token"
    assert facts["parameters"] == life["law"].facts["parameters"]
    model = AutoModelForCausalLM.from_pretrained(life["both"].folder)
    assert model.num_parameters() == facts["parameters"]
    assert len(AutoTokenizer.from_pretrained(life["both"].folder)) == 300
    assert life["both"].ledger()["purposes"]["merge"]["seconds"] > 0


def test_the_card_tells_the_parents_and_the_whole_cost(life: Run) -> None:
    """Catches experts whose training, or whose licence, a merged model would hide."""
    card = (life["export"].folder / "README.md").read_text()
    assert [each.name for each in chain_of(life["both"])] == ["general", "law", "code", "both"]
    for parent in life["both"].facts["parents"]:
        assert parent["fingerprint"] in card
    assert "merged from general and law and code" in card and "ties of law, code" in card
    report = read_json(life["report"].folder / "report.json")
    cost = sum(ledger_flops(life[name].ledger()) for name in ("general", "law", "code"))
    told = sum(ledger_flops(stage["ledger"]) for arm in report["arms"] for stage in arm["stages"])
    assert told == pytest.approx(cost)


def test_licences_come_along(life: Run, tmp_path: Path) -> None:
    """Catches licences that get lost between a folder from elsewhere, its parents and the card."""
    folders = [Path(shutil.copytree(life[name].folder, tmp_path / name)) for name in ("general", "law")]
    for folder, license in zip(folders, ("apache-2.0", "cc-by-nc-4.0"), strict=True):
        (folder / "README.md").write_text(f"---\nlicense: {license}\n---\n")
    values = {"base": str(folders[0]), "experts": [str(folders[1])]}
    made = call("merge", values, tmp_path / "merged")
    assert [parent["license"] for parent in made.facts["parents"]] == ["apache-2.0", "cc-by-nc-4.0"]
    again = call("merge", {"base": str(folders[0]), "experts": [str(tmp_path / "merged")]}, tmp_path / "again")
    assert again.facts["parents"][1]["license"] == "apache-2.0, cc-by-nc-4.0"
    card = (call("export", {"from": str(tmp_path / "again")}, tmp_path / "export").folder / "README.md").read_text()
    assert "apache-2.0, cc-by-nc-4.0" in card and "merge" in yaml.safe_load(card.split("---")[1])["tags"]


def test_the_plan_refuses_what_does_not_match(texts: Path, life: Run, tmp_path: Path) -> None:
    """Catches models that are trained for hours and then cannot be merged, and problems at another key than theirs."""
    wrong = recipe(texts, method="slerp")
    wrong["stages"][4] = {"pretrain": {"name": "code", "model": {**MODEL, "intermediate_size": 64}, **TRAINING}}
    with pytest.raises(ConfigError) as caught:
        run(wrong, out=tmp_path)
    message = str(caught.value)
    assert "stages.5.merge.experts: slerp cannot merge 2 experts" in message
    assert "stages.5.merge.experts: these models cannot be merged" in message
    assert "code: model.layers.0.mlp.gate_proj.weight and 5 more with feed_forward 64, in the base 48" in message
    other = Path(shutil.copytree(life["law"].folder, tmp_path / "law"))
    tokenizer = read_json(other / "tokenizer.json")
    ids = tokenizer["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    values = {"base": str(life["general"].folder), "experts": [str(other)], "weights": [1, 2], "dense": 1}
    with pytest.raises(ConfigError, match=r"--dense: unknown key|unknown key 'dense'"):
        call("merge", values, tmp_path / "out", dashes=True)
    values.pop("dense")
    with pytest.raises(ConfigError) as caught:
        call("merge", values, tmp_path / "out", dashes=True)
    assert "--weights: the weights do not fit the experts; needs 1 numbers" in str(caught.value)
    assert "--experts: models with different tokenizers cannot be merged" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_kill_is_cleaned_up_after(life: Run, tmp_path: Path) -> None:
    """Catches half a model that stays beside the folder for ever: the next call removes what a killed one left."""
    (tmp_path / ".out.abc.part").mkdir()
    (tmp_path / ".other.abc.part").mkdir()
    call("merge", {"base": str(life["general"].folder), "experts": [str(life["law"].folder)]}, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.abc.part", "out"]
