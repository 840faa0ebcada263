"""The stage that distils: from a recipe, from the command line and from Python, stopped and resumed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import pomona
from pomona.catalog import MethodOf
from pomona.data import TokenStream
from pomona.ground.errors import ConfigError, TrainingStopped
from pomona.ground.files import read_json
from pomona.stages import Run, call, load, run
from pomona.stages.base import ledger_flops
from pomona.stages.runner import prepare
from pomona.stages.store import Store
from pomona.stages.train import restarted
from tests.stages.test_prune import MODEL

SMALL = {**MODEL, "num_hidden_layers": 1}
TRAINING = {"batch_size": 4, "seq_length": 32, "steps": 6, "validation_tokens": 256}


def recipe(texts: Path, *later: Any) -> dict[str, Any]:
    return {
        "name": "school",
        "stages": [
            {"corpus": {"sources": [str(texts)], "validation": 0.1}},
            {"tokenize": {"vocab_size": 300}},
            {"pretrain": {"name": "teacher", "model": {**MODEL, "num_hidden_layers": 2}, **TRAINING}},
            *later,
        ],
    }


@pytest.fixture(scope="module")
def school(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher, a new student that is taught at the better of two rates, and the same student taught on."""
    sweep = {"learning_rate": [0.001, 0.01], "pilot": 0.5}
    stages = [
        {"distil": {"name": "student", "model": SMALL, "sweep": sweep, **TRAINING}},
        {"distil": {"name": "older", "teacher": "teacher", "from": "student", "temperature": 2.0, **TRAINING}},
        {
            "distil": {
                "name": "ternary",
                "teacher": "older",
                "method": "teacher-intervention",
                "intervention_steps": 3,
                "activation_bits": 8,
                **TRAINING,
            }
        },
        {"examine": {"models": ["teacher", "older"], "tokens": 256, "seq_length": 32, "decode_tokens": 2}},
        {"export": {"from": "older", "title": "student"}},
        "report",
    ]
    return run(recipe(texts, *stages), out=tmp_path_factory.mktemp("runs"))


def student_of(school: Run) -> dict[str, Any]:
    """The values of the stage `student`, for a call on folders."""
    inputs = {"teacher": str(school["teacher"].folder), "data": str(school["tokenize"].folder)}
    return {**inputs, "model": SMALL, "sweep": {"learning_rate": [0.001, 0.01], "pilot": 0.5}, **TRAINING}


def test_a_student_is_a_model_like_any_other(school: Run) -> None:
    """Catches a teacher that is exported, a student of another size, and text that is read twice."""
    export = AutoModelForCausalLM.from_pretrained(school["export"].folder)
    assert export.num_parameters() == school["student"].facts["parameters"] < school["teacher"].facts["parameters"]
    assert export.config.num_hidden_layers == 1
    assert school["older"].facts["read"]["runs"] == [[6, 4, 32], [6, 4, 32]]
    assert school["older"].facts["objective"] == school["teacher"].facts["objective"] == {"method": "next-token"}
    assert school["student"].facts["quality"]["bits_per_byte"] > 0, "judged on text, not by the distance to the teacher"


def test_a_copy_of_the_teacher_is_taught_in_two_steps(school: Run) -> None:
    """Catches a student that is not the teacher's copy, ternary weights that are lost when it is saved, and a rate that
    does not begin anew."""
    weights = load_file(school["ternary"].folder / "model.safetensors")
    assert len(weights["model.layers.0.mlp.up_proj.weight"].unique()) == 3
    facts = school["ternary"].facts
    assert facts["ternary"]["activation_bits"] == 8 and facts["parameters"] == school["older"].facts["parameters"]
    assert facts["read"]["runs"] == [[6, 4, 32]] * 3
    share = restarted(MethodOf("schedule").validate("warmup-cosine"), (3,), 6)
    assert share(0) == share(3) and share(1) == share(4) and share(2) == share(5)


def test_what_is_written_down(school: Run) -> None:
    """Catches a teacher that is free, one that is not named, and a method that is not recorded."""
    facts, costs = school["student"].facts, school["student"].ledger()["purposes"]
    assert facts["teacher"] == {"name": "teacher", "hash": school["teacher"].hash}
    assert facts["distillation"] == {"method": "kd", "temperature": 1.0, "ce_weight": 0.0}
    assert costs["train"]["flops"] > 1e6 and set(facts["sweep"]) == {"0.001", "0.01"}
    assert ledger_flops(school["student"].ledger()) == costs["teacher"]["flops"] + costs["train"]["flops"]
    # The teacher has twice the blocks and only runs forward, a third of a training step.
    assert 0.4 < costs["teacher"]["flops"] / costs["train"]["flops"] < 0.8
    (arm, *_) = read_json(school["report"].folder / "report.json")["arms"]
    assert [stage["name"] for stage in arm["stages"]] == ["teacher", "student", "older", "ternary"]
    assert arm["stages"][1]["facts"]["note"].startswith("kd from teacher")


def test_recipe_call_and_python_agree(school: Run, tmp_path: Path) -> None:
    """Catches doors that lead to different weights."""
    values = student_of(school)
    called = call("distil", values, tmp_path / "called")
    teacher = values.pop("teacher")
    made = pomona.distil(teacher, **values, out=tmp_path / "python")  # type: ignore[attr-defined]
    expected = load_file(school["student"].folder / "model.safetensors")
    for folder in (called.folder, made.folder):
        weights = load_file(folder / "model.safetensors")
        assert weights.keys() == expected.keys()
        assert all(bool((value == expected[name]).all()) for name, value in weights.items())


def test_a_stopped_lesson_ends_with_the_same_weights(
    school: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a teacher, a pilot or a step that is lost on the way."""
    batch, stopped = TokenStream.batch, []

    def interrupt(self: TokenStream, step: int, *rest: Any, **options: Any) -> Any:
        if step == 4 and not stopped:
            stopped.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, step, *rest, **options)

    monkeypatch.setattr(TokenStream, "batch", interrupt)
    with pytest.raises(TrainingStopped):
        call("distil", student_of(school), tmp_path / "student")
    made = call("distil", student_of(school), tmp_path / "student")
    expected = load_file(school["student"].folder / "model.safetensors")
    weights = load_file(made.folder / "model.safetensors")
    assert stopped and all(bool((value == expected[name]).all()) for name, value in weights.items())
    assert made.ledger()["purposes"]["teacher"]["flops"] == school["student"].ledger()["purposes"]["teacher"]["flops"]


def test_the_plan_finds_what_does_not_fit(texts: Path, tmp_path: Path) -> None:
    """Catches students and teachers that only fail after other stages have run."""
    stages = [
        {"distil": {"name": "none", **TRAINING}},
        {"distil": {"name": "both", "from": "teacher", "model": SMALL, **TRAINING}},
    ]
    for stage, expected in zip(stages, ("kd needs a student", "found both"), strict=True):
        with pytest.raises(ConfigError, match=expected):
            load(recipe(texts, stage))
    wide = {**SMALL, "vocab_size": 400}
    stages = [
        {"distil": {"name": "wide", "model": wide, "teacher": "teacher", **TRAINING}},
        {"distil": {"name": "long", "model": SMALL, "teacher": "teacher", **TRAINING, "seq_length": 128}},
        {"distil": {"name": "typo", "model": SMALL, "teacher": "techer", **TRAINING}},
    ]
    recipe_ = load(recipe(texts, *stages))
    with pytest.raises(ConfigError) as caught:
        prepare(recipe_, Store(tmp_path / recipe_.name))
    message = str(caught.value)
    for expected in (
        "stages.3.distil.method: kd cannot compare predictions",
        "stages.4.distil.seq_length: 128 tokens are more than the teacher's 64",
        "stages.5.distil.teacher",
    ):
        assert expected in message, message
