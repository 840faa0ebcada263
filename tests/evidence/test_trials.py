"""Arms take turns, share what they have in common, continue after an interruption, and are tuned alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pomona.evidence.table import Trial
from pomona.evidence.trials import check_tuning, rotated, run_trials
from pomona.ground.errors import ConfigError, TrainingStopped
from pomona.stages import Artefact, load
from tests.stages import fake_stages

ARMS: dict[str, list[Any]] = {
    "once": [{"sow": {"text": "seed"}}, {"tend": {"times": 1}}],
    "twice, at 2 x": [{"sow": {"text": "seed"}}, {"tend": {"times": 2}}],
}


def words(made: Mapping[str, Artefact]) -> dict[str, float]:
    """The length of what was written."""
    return {"length": float(len((made["tend"].folder / "text").read_text()))}


def run(work: Path, arms: Mapping[str, list[Any]] = ARMS, seeds: int = 2) -> Any:
    return run_trials("orchard", arms, dict.fromkeys(arms, words), range(seeds), work)


def test_turns_and_shared_stages(fakes: list[str], tmp_path: Path) -> None:
    """Catches one arm that always runs first, a common stage made for every arm, and mixed up trials."""
    trials = run(tmp_path)
    assert [(trial.arm, trial.seed) for trial in trials] == [
        ("once", 0),
        ("once", 1),
        ("twice, at 2 x", 0),
        ("twice, at 2 x", 1),
    ]
    assert [trial.metrics["length"] for trial in trials] == [6, 6, 10, 10]
    assert fakes == ["sow", "tend:0", "tend:0", "tend:1", "tend:0", "tend:1", "tend:0"]
    assert len({trial.made["sow"] for trial in trials}) == 1 and len({trial.made["tend"] for trial in trials}) == 4
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [
        *("orchard-once-0", "orchard-once-1", "orchard-twice-at-2-x-0", "orchard-twice-at-2-x-1"),
    ]
    assert rotated(["a", "b", "c"], 4) == ["b", "c", "a"]


def test_more_seeds_add_and_interruptions_continue(fakes: list[str], tmp_path: Path) -> None:
    """Catches an experiment that starts again from nothing."""
    run(tmp_path, seeds=1)
    fakes.clear()
    fake_stages.STOP["tend"] = 1
    with pytest.raises(TrainingStopped):
        run(tmp_path)
    fake_stages.STOP.clear()
    assert fakes == ["tend:0"]
    run(tmp_path)
    assert fakes == ["tend:0", "tend:1", "tend:0"]


def test_other_code_makes_other_stages(fakes: list[str], tmp_path: Path) -> None:
    """Catches a changed method whose new result consists of what its old code made."""

    def run(version: str) -> tuple[Trial, ...]:
        arms = {"tried": [{"sow": {"text": "seed"}}, {"tend": {"times": 2, "pilots": [1]}}]}
        return run_trials(
            "o", arms, {"tried": words}, [0], tmp_path, salt=lambda stage: version * (stage.verb == "tend")
        )

    (first,) = run("old")
    fakes.clear()
    assert run("old")[0].made == first.made and fakes == []
    (second,) = run("new")
    assert fakes == ["tend-pilot-1:0", "tend:0", "tend:1"]
    assert second.made["sow"] == first.made["sow"] and second.made["tend"] != first.made["tend"]


def test_a_bad_arm_costs_nothing(fakes: list[str], tmp_path: Path) -> None:
    """Catches compute that is spent before the last arm has been checked."""
    with pytest.raises(ConfigError, match="stones do not grow"):
        run(tmp_path, {**ARMS, "stones": [{"sow": {"text": "stones"}}, {"tend": {}}]})
    assert fakes == []


def test_tuning_is_equal() -> None:
    """Catches a baseline that gets fewer pilots than the method, and a method that is not swept at all."""

    def recipe(*rates: float, pilot: float = 0.1) -> Any:
        model = {"shape": "llama", "hidden_size": 16}
        sweep = {"sweep": {"learning_rate": list(rates), "pilot": pilot}} if rates else {}
        stages = [{"corpus": "env:docs"}, {"tokenize": {"vocab_size": 300}}]
        return load({"name": "r", "stages": [*stages, {"pretrain": {"model": model, "steps": 10, **sweep}}]})

    check_tuning({"a": recipe(0.1, 0.2), "b": recipe(0.3, 0.4)})
    check_tuning({"a": recipe(), "b": recipe()})
    check_tuning({"a": load({"name": "r", "stages": [{"corpus": "env:docs"}]}), "b": recipe(0.1, 0.2)})
    for other in (recipe(0.1, 0.2, 0.3), recipe(0.1, 0.2, pilot=0.5), recipe()):
        with pytest.raises(ConfigError, match="are not tuned alike"):
            check_tuning({"a": recipe(0.1, 0.2), "b": other})
