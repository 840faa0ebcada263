"""`probe` and `attack` as stages: folders in, findings out, and wrong inputs told before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import BertConfig, BertForMaskedLM

from pomona.evidence.planted_models import Text, tokenizer_of, train
from pomona.ground.errors import ConfigError
from pomona.ground.files import read_json
from pomona.ground.quiet import without_bars
from pomona.stages import call
from pomona.stages.graph import Problem, outside

CODE = "def {name}(word00, and1):\n    and2 = word00 + and1\n    return and2\n"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier before and after training, a masked model, labelled texts and labelled code."""
    root = tmp_path_factory.mktemp("probing")
    text = Text(0)
    tokenizer = tokenizer_of(text.vocabulary)
    for name, steps in (("untuned", 0), ("tuned", 40)):
        with without_bars():
            train(text, 0, steps=steps).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    config = BertConfig(
        vocab_size=len(text.vocabulary) + 1,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    with without_bars():
        BertForMaskedLM(config).save_pretrained(root / "masked")
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    tokenizer.save_pretrained(root / "masked")
    examples = {
        "examples": [[item.text, item.label, ""] for item in text.items(80)],
        "code": [[CODE.format(name=f"and{place}"), f"class{place % 4}", ""] for place in range(8)],
    }
    for name, lines in examples.items():
        (root / name).mkdir()
        (root / name / "labels.json").write_text(json.dumps([f"class{number}" for number in range(4)]))
        for side in ("train", "validation", "test"):
            written = lines if side == "test" else []
            (root / name / f"{side}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in written))
    return root


def test_probe(room: Path, tmp_path: Path) -> None:
    """Catches models in another order than given, numbers that do not reach the manifest, and a probe from which a
    report would be made."""
    models = [str(room / "untuned"), str(room / "tuned")]
    made = call(
        "probe", {"models": models, "examples": str(room / "examples"), "method": "sufo"}, str(tmp_path / "out")
    )
    assert made.facts["numbers"] == read_json(made.folder / "probe.json")["numbers"]
    assert isinstance(outside(made.folder, "examination"), Problem)
    assert made.facts["numbers"]["probe after"] > made.facts["numbers"]["probe before"]
    with pytest.raises(ConfigError, match="one before tuning and one after"):
        call("probe", {"models": models[:1], "examples": str(room / "examples")}, str(tmp_path / "other"))


def test_attack(room: Path, tmp_path: Path) -> None:
    """Catches a victim and a generator that are exchanged, texts beyond those asked for, and a wrong generator."""
    given = {"from": str(room / "tuned"), "generator": str(room / "masked"), "examples": str(room / "code")}
    made = call("attack", {**given, "texts": 6, "queries": 20}, str(tmp_path / "out"))
    written = read_json(made.folder / "attack.json")
    assert made.facts["numbers"]["attacked"] == len(written["attempts"]) <= 6
    assert all(attempt["queries"] <= 20 for attempt in written["attempts"])
    with pytest.raises(ConfigError, match="cannot say what is natural"):
        call("attack", {**given, "generator": str(room / "tuned")}, str(tmp_path / "other"))
