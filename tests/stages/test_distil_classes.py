"""`distil` on texts: a classifier teaches another one, of text whose labels are not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from pomona.ground.errors import ConfigError
from pomona.stages import Run, load, run
from pomona.stages.base import ledger_flops
from pomona.stages.runner import prepare
from pomona.stages.store import Store
from tests.stages.test_adapt import ADAMW, ENCODER, LESSON, recipe, table  # noqa: F401

STUDENT = {**ENCODER, "num_hidden_layers": 1}
TAUGHT = {"examples": "fruit", "optimizer": ADAMW, **LESSON}


def school_of(texts: Path, table: Path, *later: Any) -> dict[str, Any]:  # noqa: F811
    teacher = {"adapt": {"name": "teacher", "from": "encoder", "optimizer": ADAMW, "steps": 90, **LESSON}}
    return recipe(texts, table, teacher, *later)


@pytest.fixture(scope="module")
def school(texts: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:  # noqa: F811
    """A teacher, and students: a new one, the pre-trained one, and a ternary copy of the teacher."""
    stages = [
        {"distil": {"name": "new", "teacher": "teacher", "model": STUDENT, "steps": 60, **TAUGHT}},
        {"distil": {"name": "read", "teacher": "teacher", "from": "encoder", "method": "well-read-students",
                    "steps": 60, "sweep": {"learning_rate": [0.01, 0.02], "pilot": 0.5}, **TAUGHT}},
        {"distil": {"name": "ternary", "teacher": "teacher", "method": "teacher-intervention", "steps": 6,
                    "intervention_steps": 3, **TAUGHT}},
        {"adapt": {"name": "tuned", "from": "read", "optimizer": ADAMW, "steps": 4, **LESSON}},
    ]  # fmt: skip
    return run(school_of(texts, table, *stages), out=tmp_path_factory.mktemp("runs"))


def test_students_learn_the_classes(school: Run) -> None:
    """Catches classes in another order, a student that learns nothing, and a folder that is no classifier."""
    taught = school["teacher"].facts["accuracy"]
    assert taught > 0.5 and all(school[name].facts["accuracy"] > 0.45 for name in ("new", "read", "tuned"))
    model = AutoModelForSequenceClassification.from_pretrained(school["read"].folder)
    assert list(model.config.id2label.values()) == school["teacher"].facts["labels"] == school["read"].facts["labels"]
    assert school["new"].facts["blocks"] == 1 and school["tuned"].facts["accuracy"] > 0.6
    query = load_file(school["ternary"].folder / "model.safetensors")[
        "bert.encoder.layer.0.attention.self.query.weight"
    ]
    assert len(query.unique()) == 3


def test_what_it_cost(school: Run) -> None:
    """Catches a teacher that is free, and one that is charged at the longest text for all."""
    costs = school["read"].ledger()["purposes"]
    assert 0.2 < costs["teacher"]["flops"] / costs["train"]["flops"] < 0.5
    assert ledger_flops(school["read"].ledger()) == costs["teacher"]["flops"] + costs["train"]["flops"]
    assert costs["sweep"]["flops"] > 0 and school["read"].facts["note"].startswith("well-read-students from teacher")


def test_labels_to_train_on_are_not_read(school: Run, texts: Path, table: Path, tmp_path: Path) -> None:  # noqa: F811
    """Catches a student that sees labels: with all of them exchanged its weights are the same."""
    folder = tmp_path / "fruit"
    folder.mkdir()
    for file in school["fruit"].folder.iterdir():
        if file.name == "train.jsonl":
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            names = school["teacher"].facts["labels"]
            moved = [[row[0], names[(names.index(row[1]) + 1) % 3], *row[2:]] for row in rows]
            (folder / file.name).write_text("".join(json.dumps(row) + "\n" for row in moved))
        elif file.name in ("labels.json", "validation.jsonl", "test.jsonl"):
            (folder / file.name).write_bytes(file.read_bytes())
    from pomona.stages import call

    values = {"teacher": str(school["teacher"].folder), "model": STUDENT, "steps": 60, **TAUGHT}
    made = call("distil", {**values, "examples": str(folder)}, tmp_path / "made")
    expected = load_file(school["new"].folder / "model.safetensors")
    weights = load_file(made.folder / "model.safetensors")
    assert all(bool((value == expected[name]).all()) for name, value in weights.items())


def test_the_plan_finds_what_does_not_fit(texts: Path, table: Path, tmp_path: Path) -> None:  # noqa: F811
    """Catches a teacher that knows no classes, found after others have been trained."""
    stages = [{"distil": {"name": "x", "teacher": "encoder", "model": STUDENT, "steps": 3, **TAUGHT}}]
    recipe_ = load(school_of(texts, table, *stages))
    with pytest.raises(ConfigError, match="does not classify texts"):
        prepare(recipe_, Store(tmp_path / recipe_.name))
