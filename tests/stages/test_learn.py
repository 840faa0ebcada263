"""`learn` as a stage: sessions by the recipe, numbers in the manifest, and wrong inputs told before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pomona import anatomy
from pomona.continual import NearestMean, Prototypes, session_of
from pomona.ground.errors import ConfigError
from pomona.ground.files import read_json
from pomona.stages import Run, load, run
from pomona.stages.models import load_tokenizer
from pomona.tasks import Examples
from tests.stages.test_adapt import ADAMW, recipe, table  # noqa: F401

SVFIT = {"adapter": "svfit", "optimizer": ADAMW, "epochs": 2, "batch_size": 16}
GIVEN = {"seq_length": 32, "classes": 1}


@pytest.fixture(scope="module")
def school(texts: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:  # noqa: F811
    """Means of a decoder and of an encoder, a copy adapted, one adapted by its head alone, and a trained head."""
    stages: list[Any] = [
        {"learn": {"name": "means", "from": "decoder", **GIVEN}},
        {"learn": {"name": "encoded", "from": "encoder", **GIVEN}},
        {"learn": {"name": "alone", "from": "decoder", "method": "aper", "adapted": False, "first": 2, **GIVEN}},
        {"learn": {"name": "aper", "from": "decoder", "method": "aper", "first": 2, **GIVEN, **SVFIT}},
        {"learn": {"name": "idle", "from": "decoder", "method": "aper", "first": 2, **GIVEN, **SVFIT,
                   "adapter": "head"}},
        {"learn": {"name": "head", "from": "decoder", "method": "sequential-probe", **GIVEN}},
    ]  # fmt: skip
    return run(recipe(texts, table, *stages), out=tmp_path_factory.mktemp("runs"))


def test_sessions(school: Run) -> None:
    """Catches numbers that do not reach the manifest, and sessions of another size or order than asked for."""
    for name, sizes in (("means", [1, 1, 1]), ("encoded", [1, 1, 1]), ("aper", [2, 1]), ("head", [1, 1, 1])):
        facts = school[name].facts
        assert [len(labels) for labels in facts["sessions"]] == sizes
        assert facts["last_accuracy"] == facts["accuracies"][-1] == facts["accuracy"]
        assert facts["average_accuracy"] == pytest.approx(sum(facts["accuracies"]) / len(sizes))
        assert read_json(school[name].folder / "sessions.json")["forgetting"] == facts["forgetting"]
    assert school["means"].facts["sessions"] == school["head"].facts["sessions"]
    assert school["means"].facts["accuracies"][0] == 1.0
    assert school["means"].ledger()["purposes"]["features"]["flops"] > 0


def test_a_copy_is_adapted_and_kept(school: Run) -> None:
    """Catches a model that is not adapted or not saved, a copy that is the model's own, and training that is free."""
    base = load_file(school["decoder"].folder / "model.safetensors")
    own = load_file(school["aper"].folder / "adapted" / "model.safetensors")
    query = "layers.0.self_attn.q_proj.weight"
    assert not torch.equal(own[query], base[f"model.{query}"])
    assert school["aper"].ledger()["purposes"]["train"]["flops"] > 0
    assert "train" not in school["alone"].ledger()["purposes"]
    single, double = (Prototypes.load(school[name].folder / "prototypes.safetensors") for name in ("alone", "aper"))
    width = single.means.shape[1]
    assert double.means.shape[1] == 2 * width and torch.equal(double.means[:, :width], single.means)


def test_a_head_alone_adapts_nothing(school: Run) -> None:
    """Catches features that depend on the task's head: it ranks as SimpleCIL."""
    assert school["idle"].facts["accuracies"] == school["alone"].facts["accuracies"]


def test_what_is_written_answers(school: Run) -> None:
    """Catches folders from which the learner cannot be made again."""
    examples, folder = Examples.open(school["fruit"].folder), school["aper"].folder
    models = [anatomy.load(school["decoder"].folder), anatomy.load(folder / "adapted")]
    kept = Prototypes.load(folder / "prototypes.safetensors")
    learner = NearestMean(models, metric="cosine", prototypes=kept)
    told = session_of(examples.labels, examples.side("test"), load_tokenizer(folder / "adapted"), 32).texts
    hits = sum(learner.predict(texts).count(label) for label, texts in told.items())
    assert hits / sum(len(texts) for texts in told.values()) == school["aper"].facts["last_accuracy"]


def test_what_is_not_used_changes_nothing() -> None:
    """Catches means that are made anew because of an optimizer that they do not have."""

    def identity(**values: Any) -> Any:
        (stage,) = load({"name": "one", "stages": [{"learn": {"from": "x", "examples": "y", **values}}]}).stages
        return stage.identity()

    assert identity() == identity(epochs=3) != identity(classes=3)
    assert identity(method="aper") != identity(method="aper", epochs=3)


@pytest.mark.parametrize(
    ("stage", "remedy"),
    [
        ({"first": 4}, "4 classes are more than the 3"),
        ({"seq_length": 128}, "more than the model's 64 positions"),
        ({"method": "aper", "adapter": "meft", "first": 2}, "does not become part of the weights"),
        ({"method": "aper", "adapter": "svfit"}, "first: 2 or more"),
        ({"method": "lora"}, "lora"),
    ],
)
def test_problems_are_found_before_the_run(
    texts: Path,
    table: Path,  # noqa: F811
    tmp_path: Path,
    stage: dict[str, Any],
    remedy: str,
) -> None:
    """Catches a recipe that trains its base model first and then stops."""
    given = recipe(texts, table, {"learn": {"from": "decoder", **GIVEN, **stage}})
    given["stages"][4]["examples"]["classes"] = 3
    with pytest.raises(ConfigError, match=remedy):
        run(given, out=tmp_path)
    assert not list(tmp_path.rglob("model.safetensors"))
