"""Sparse from the start, from a recipe: zeros through both phases, freed on request, factors that leave no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from pomona import anatomy
from pomona.ground.errors import ConfigError
from pomona.stages import Run, load, run, stage_class
from tests.stages.test_prune import MODEL, TRAINING, recipe

SPDF = {"method": "spdf", "sparsity": 0.75}
FACTORS = {"method": "sltrain", "rank": 4, "alpha": 4, "delta": 0.05}


def started(name: str, **more: Any) -> dict[str, Any]:
    return {"pretrain": {"name": name, "model": MODEL, **TRAINING, **more}}


@pytest.fixture(scope="module")
def life(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model that is sparse from the start and trained on in both ways, and one of factors that is trained on."""
    stages = [
        started("sparse", sparsity=SPDF),
        {"continue": {"name": "held", "from": "sparse", **TRAINING}},
        {"continue": {"name": "freed", "from": "sparse", "zeros": "freed", **TRAINING}},
        started("factored", sparsity=FACTORS),
        {"continue": {"name": "dense-on", "from": "factored", **TRAINING}},
    ]
    return run(recipe(texts, *stages), out=tmp_path_factory.mktemp("runs"))


def zeros_of(folder: Path) -> int:
    return sum(int((weight.read() == 0).sum()) for weight in anatomy.of(anatomy.load(folder)).weights())


def test_zeros_through_both_phases(life: Run) -> None:
    """Catches zeros that are lost when a stage begins, held against the recipe, or not counted."""
    maps = anatomy.of(anatomy.load(life["sparse"].folder)).weights()
    wanted = sum(weight.numel() - round(0.25 * weight.numel()) for weight in maps)
    facts = life["sparse"].facts
    assert zeros_of(life["sparse"].folder) == facts["zeros"] == wanted
    assert facts["zero_flops"] == 6.0 * wanted * facts["tokens"]
    assert zeros_of(life["held"].folder) == wanted and life["held"].facts["zero_flops"] == facts["zero_flops"]
    assert zeros_of(life["freed"].folder) == 0 and "zeros" not in life["freed"].facts


def test_factors_leave_an_ordinary_model(life: Run) -> None:
    """Catches factors in the folder, a model that only pomona loads, and counts of what was trained."""
    facts = life["factored"].facts
    model = AutoModelForCausalLM.from_pretrained(life["factored"].folder)
    assert model.num_parameters() == facts["parameters"] == life["dense-on"].facts["parameters"]
    assert 0 < facts["factored"]["trained"] < facts["factored"]["dense"]


def test_the_hash_of_what_was_made_before_stays() -> None:
    """Catches keys at their default that make every older model be made anew."""
    values: dict[str, Any] = {"model": MODEL, **TRAINING}
    stage = stage_class("pretrain")
    assert "sparsity" not in stage.model_validate(values).identity()
    assert "sparsity" in stage.model_validate({**values, "sparsity": SPDF}).identity()
    later = stage_class("continue")
    assert "zeros" not in later.model_validate(TRAINING).identity()
    assert "zeros" in later.model_validate({**TRAINING, "zeros": "freed"}).identity()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (started("x", sparsity="ffn-removal"), "needs a trained model"),
        (started("x", sparsity="essential-sparsity"), "needs a trained model"),
        ({"pretrain": {"model": "whole", "sparsity": FACTORS, **TRAINING}}, "starts from scratch"),
        ({"prune": {"method": "sltrain"}}, "give it to `pretrain` as `sparsity`"),
    ],
)
def test_refusals_of_values(texts: Path, stage: dict[str, Any], message: str) -> None:
    """Catches a method in the wrong stage, which would fail in the middle of a run."""
    with pytest.raises(ConfigError, match=message):
        load(recipe(texts, stage))


def test_refusals_of_the_plan(texts: Path, tmp_path: Path) -> None:
    """Catches a rank that the model is too small for, found out after the corpus was made."""
    with pytest.raises(ConfigError, match="choose at most"):
        run(recipe(texts, started("x", sparsity={**FACTORS, "rank": 64})), out=tmp_path, plan_only=True)
