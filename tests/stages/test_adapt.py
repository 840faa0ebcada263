"""The stages `examples` and `adapt`: from tables to a classifier, and a model that learns a user's own corpus."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pomona import adapters, anatomy
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.ground.files import read_json
from pomona.stages import Run, run
from pomona.tasks import Examples, encode, held_out_batches, score
from tests.stages.conftest import WORDS

DECODER = {
    "shape": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip
ENCODER = {
    "shape": "bert", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
TRAINING = {"batch_size": 4, "seq_length": 32, "steps": 3, "validation_tokens": 256}
LESSON = {"batch_size": 16, "seq_length": 32}
SHORT = {"batch_size": 16, "seq_length": 32, "steps": 4}
ADAMW = {"method": "adamw", "learning_rate": 0.01}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences labelled by which of three words they begin with."""
    draw = random.Random(1)
    rows = [f"{WORDS[n % 3]} {' '.join(draw.choices(WORDS[6:], k=4))},{WORDS[n % 3]}" for n in range(240)]
    file = tmp_path_factory.mktemp("table") / "fruit.csv"
    file.write_text("text,label\n" + "\n".join(rows) + "\n")
    return file


def recipe(texts: Path, table: Path, *later: Any) -> dict[str, Any]:
    return {
        "name": "orchard",
        "stages": [
            {"corpus": {"sources": [str(texts)], "validation": 0.1}},
            {"tokenize": {"vocab_size": 300, "mask_token": "<mask>"}},
            {"pretrain": {"name": "decoder", "model": DECODER, **TRAINING}},
            {"pretrain": {"name": "encoder", "model": ENCODER, "objective": "masked-lm", **TRAINING}},
            {"examples": {"name": "fruit", "sources": str(table)}},
            *later,
        ],
    }


@pytest.fixture(scope="module")
def life(texts: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An encoder and a decoder that learn the labels, heads alone, a decoder that learns text, an export."""
    sweep = {"learning_rate": [0.001, 0.01], "pilot": 0.2}
    stages = [
        {"adapt": {"name": "encoded", "from": "encoder", "optimizer": ADAMW, "steps": 63, **LESSON}},
        {"adapt": {"name": "decoded", "from": "decoder", "optimizer": ADAMW, "epochs": 6, "sweep": sweep, **LESSON}},
        {"adapt": {"name": "probe", "from": "encoder", "method": "head", "steps": 3, **LESSON}},
        {"adapt": {"name": "again", "from": "decoded", "steps": 1, **LESSON}},
        {"adapt": {"name": "written", "from": "decoder", "task": "write", **TRAINING}},
        {"adapt": {"name": "ranked", "from": "decoder", "method": "dylora", "rank_max": 4, "rank": 2, **SHORT}},
        {"adapt": {"name": "streams", "from": "decoder", "method": "meft", **SHORT}},
        {"export": {"from": "decoded"}},
    ]
    return run(recipe(texts, table, *stages), out=tmp_path_factory.mktemp("runs"))


def test_classifiers_learn_and_say_how_well(life: Run) -> None:
    """Catches an accuracy of the training side, of another label order, and pilots that are not charged apart."""
    for name, least in (("encoded", 0.4), ("decoded", 0.9)):  # an untrained encoder learns to look about slowly
        facts = life[name].facts
        assert facts["accuracy"] > max(least, life["fruit"].facts["most_common"]) and facts["macro_f1"] > 0.4, name
        assert facts["labels"] == sorted(WORDS[:3]) and facts["scores"]["examples"] == life["fruit"].facts["test"]
        assert facts["quality"]["tokens"] == life["fruit"].facts["validation"]
    assert life["decoded"].facts["steps"] == round(6 * life["fruit"].facts["train"] / 16)
    assert life["decoded"].ledger()["purposes"]["sweep"]["flops"] > 0
    assert life["again"].facts["accuracy"] > 0.9, "a classifier of the same labels keeps its head"


def test_what_is_trained(life: Run) -> None:
    """Catches a frozen model that moves, and a head that does not."""
    base = load_file(life["encoder"].folder / "model.safetensors")
    probe = load_file(life["probe"].folder / "model.safetensors")
    kept = [name for name in base if name.startswith("bert.")]
    assert kept and all(torch.equal(base[name], probe[name]) for name in kept)
    assert 0 < life["probe"].facts["trained_parameters"] < life["encoded"].facts["trained_parameters"]
    assert life["encoded"].facts["trained_parameters"] == life["encoded"].facts["parameters"]


def test_the_export_is_an_ordinary_folder(life: Run) -> None:
    """Catches a folder whose labels or weights transformers does not find."""
    folder = life["export"].folder
    model, words = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        answer = int(model(**words(f"{WORDS[1]} {WORDS[7]}", return_tensors="pt")).logits.argmax())
    assert model.config.id2label[answer] == WORDS[1]


def test_adapters_are_merged_and_kept_beside(life: Run) -> None:
    """Catches a merge at another rank than was asked for, and a folder that no longer is an ordinary model."""
    facts, folder = life["ranked"].facts, life["ranked"].folder
    assert set(facts["variants"]) == {"1", "2", "4"}
    assert facts["scores"] == pytest.approx(facts["variants"]["2"]["scores"], rel=1e-2)
    assert read_json(folder / "adapter/adapter_config.json")["peft_type"] == "LORA"
    own, base = (set(load_file(life[name].folder / "model.safetensors")) for name in ("ranked", "decoded"))
    assert own == base
    assert life["ranked"].ledger()["purposes"]["attach"]["seconds"] >= 0


def test_what_cannot_be_merged_is_not_mistaken(life: Run) -> None:
    """Catches a model on two streams that is loaded as if it were on one."""
    folder = life["streams"].folder
    with pytest.raises(UnsupportedModel, match=r"pomona\.adapters\.load"):
        anatomy.load(folder)
    model, words = adapters.load(folder), AutoTokenizer.from_pretrained(folder)
    encoded = encode(Examples.open(life["fruit"].folder).side("test"), life["fruit"].facts["labels"], words, 32)
    scores = score(anatomy.of(model), held_out_batches(encoded))
    assert scores.nats == pytest.approx(life["streams"].facts["scores"]["nats"], rel=2e-2)


def test_a_corpus_is_learnt(life: Run) -> None:
    """Catches language modelling that is sent through the classifier's path."""
    facts = life["written"].facts
    assert facts["task"] == "write" and facts["quality"]["bits_per_byte"] > 0 and "accuracy" not in facts
    assert facts["objective"]["method"] == "next-token"


@pytest.mark.parametrize(
    ("stage", "remedy"),
    [
        ({"from": "decoder", "task": "write", "method": "head", **TRAINING}, "method: full or lora"),
        ({"from": "encoder", "seq_length": 128, "steps": 1}, "more than the model's 64 positions"),
        ({"from": "encoder", "steps": 1, "epochs": 2}, "found steps and epochs"),
        ({"from": "encoder", "examples": "decoder", "steps": 1}, "makes a model, not a examples"),
    ],
)
def test_problems_are_found_before_the_run(
    texts: Path, table: Path, tmp_path: Path, stage: dict[str, Any], remedy: str
) -> None:
    """Catches a recipe that trains its base model first and then stops."""
    with pytest.raises(ConfigError, match=remedy):
        run(recipe(texts, table, {"adapt": stage}), out=tmp_path)
    assert not list(tmp_path.rglob("model.safetensors"))
