"""A recipe's problems are found all at once and located; its stages get the inputs it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona.ground.errors import ConfigError
from pomona.stages.recipe import find, load, shipped
from pomona.stages.runner import prepare
from pomona.stages.store import Store

GOOD = {"name": "field", "stages": [{"sow": {"text": "ab"}}, {"tend": {"name": "one"}}, "judge"]}


def write(path: Path, text: str) -> Path:
    file = path / "recipe.yaml"
    file.write_text(text)
    return file


def test_every_problem_at_once_with_its_line(fakes: list[str], tmp_path: Path) -> None:
    """Catches stopping at the first problem, a lost line, or an unknown key without near names."""
    file = write(
        tmp_path,
        """name: field
sed: 3
stages:
  - sow:
      text: [1]
  - tend:
      tmes: 3
      style: quiet
  - water
  - tend: {times: 0}
""",
    )
    with pytest.raises(ConfigError) as caught:
        load(file)
    message = str(caught.value)
    assert "6 problems" in message
    for expected in (
        "recipe.yaml:2 sed: unknown key 'sed'",
        "did you mean 'seed'?",
        "recipe.yaml:5 stages.0.sow.text: Input should be a valid string",
        "recipe.yaml:7 stages.1.tend.tmes: unknown key 'tmes'",
        "did you mean 'times'?",
        "recipe.yaml:8 stages.1.tend.style: Input should be 'plain' or 'loud' (got 'quiet')",
        "recipe.yaml:9 stages.2.water: unknown stage 'water'",
        "recipe.yaml:10 stages.3.tend.times",
    ):
        assert expected in message, message


def test_forms_of_a_stage(fakes: list[str]) -> None:
    """Catches a bare verb, an empty value or repeated verbs being refused or called alike."""
    recipe = load({"name": "f", "stages": [{"sow": {"text": "a"}}, "tend", {"tend": None}, {"judge": {"name": "j"}}]})
    assert recipe.labels == ("sow", "tend", "tend-2", "j")
    with pytest.raises(ConfigError, match="a second stage is called 'sow'"):
        load({"name": "f", "stages": [{"sow": {"text": "a"}}, {"tend": {"name": "sow"}}]})
    with pytest.raises(ConfigError, match="a stage is a verb"):
        load({"name": "f", "stages": [{"sow": {"text": "a"}, "tend": {}}]})


def test_overrides_reach_stages_and_header(fakes: list[str]) -> None:
    """Catches `--set` applied to the wrong stage, words where numbers are meant, or a change of the given values."""
    recipe = load(GOOD, ["one.times=5", "seed=3", "sow.text=xyz"])
    assert recipe.stages[1].times == 5 and recipe.header.seed == 3 and recipe.stages[0].text == "xyz"  # type: ignore[attr-defined]
    assert GOOD["stages"][0] == {"sow": {"text": "ab"}}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("on.times=5", "no stage is called 'on'"),
        ("sede=5", "did you mean 'seed'"),
        ("one.times", "not of the form"),
        ("one.times=many", r"--set one\.times=many \(stages\.1\.tend\.times\)"),
        ("one.tims=3", r"--set one\.tims=3 .*unknown key"),
    ],
)
def test_wrong_overrides_are_named(fakes: list[str], word: str, message: str) -> None:
    """Catches a mistake on the command line being blamed on the file, or ignored."""
    with pytest.raises(ConfigError, match=message):
        load(GOOD, [word])


def problems_of(stages: list[object], tmp_path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare(load({"name": "f", "stages": stages}), Store(tmp_path / "f"))
    return str(caught.value)


def test_inputs_are_checked_before_anything_runs(fakes: list[str], tmp_path: Path) -> None:
    """Catches missing inputs, unknown or later names and wrong kinds passing the plan."""
    message = problems_of(
        ["tend", {"sow": {"text": "a"}}, {"tend": {"name": "t", "from": "swo"}}, {"tend": {"name": "u", "from": "t"}}],
        tmp_path,
    )
    assert "stages.0.tend.from: needs a tokens, and no stage before makes one" in message
    assert "stages.2.tend.from: no stage is called 'swo'" in message and "did you mean 'sow'" in message
    assert "stages.3.tend.from: 't' makes a model, not a tokens" in message
    late = problems_of([{"tend": {"from": "sow"}}, {"sow": {"text": "a"}}], tmp_path)
    assert "'sow' comes later in the recipe" in late
    assert not fakes


def test_stages_are_checked_against_each_other(fakes: list[str], tmp_path: Path) -> None:
    """Catches a stage's own plan gate not being asked, or not seeing what its input will be."""
    message = problems_of([{"sow": {"text": "stones"}}, {"sow": {"name": "long", "text": "a" * 101}}, "tend"], tmp_path)
    assert "stages.0.sow.text: stones do not grow" in message
    assert "stages.2.tend.times: the text is too long" in message


def test_lookup_of_recipes() -> None:
    """Catches shipped recipes that cannot be found, and unknown names without near ones."""
    assert {"demo", "tiny"} <= set(shipped())
    with pytest.raises(ConfigError, match="did you mean 'demo'"):
        find("dmeo")
