"""Stages are made once, found again, rebuilt when damaged, and continued when interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pomona.ground.errors import ConfigError, FolderBusy, TrainingStopped
from pomona.ground.files import folder_lock, is_intact
from pomona.stages import call, run
from tests.stages.fake_stages import STOP


def field(**tend: Any) -> dict[str, Any]:
    return {"name": "field", "stages": [{"sow": {"text": "ab"}}, {"tend": tend}, "judge"]}


def test_finished_stages_are_reused(fakes: list[str], tmp_path: Path) -> None:
    """Catches work done twice, or a change that does not lead to new work downstream (and only there)."""
    first = run(field(), out=tmp_path)
    assert fakes == ["sow", "tend:0", "tend:1", "judge"]
    assert (first["tend"].folder / "text").read_text() == "0 abab"
    assert all(is_intact(artefact.folder) for artefact in first.artefacts.values())
    fakes.clear()
    run(field(), out=tmp_path)
    assert fakes == []
    run(field(times=3), out=tmp_path)
    assert fakes == ["tend:0", "tend:1", "tend:2", "judge"]
    fakes.clear()
    run(field(times=3), ["seed=1"], out=tmp_path)
    assert fakes == ["tend:0", "tend:1", "tend:2", "judge"], "the seed changes what is seeded"
    fakes.clear()
    run(field(times=3, seed=1, remark="x"), out=tmp_path)
    assert fakes == [], "an own seed equal to the recipe's, and a silent key, change nothing"


def test_recipes_share_what_they_have_in_common(fakes: list[str], tmp_path: Path) -> None:
    """Catches a second recipe repeating the first one's stages."""
    run(field(), out=tmp_path)
    fakes.clear()
    other = {**field(), "name": "other"}
    other["stages"] = [*other["stages"][:2], {"tend": {"name": "more", "times": 1}}]
    made = run(other, out=tmp_path)
    assert fakes == ["more:0"]
    assert made["sow"].folder.parent.name == "field"


def test_an_interrupted_stage_goes_on(fakes: list[str], tmp_path: Path) -> None:
    """Catches work that is thrown away at a kill, or a work folder that is left behind."""
    STOP["tend"] = 1
    with pytest.raises(TrainingStopped):
        run(field(times=3), out=tmp_path)
    assert list((tmp_path / "field").glob("*.work")) and not list((tmp_path / "field").glob(".*.part"))
    STOP.clear()
    made = run(field(times=3), out=tmp_path)
    assert fakes == ["sow", "tend:0", "tend:1", "tend:2", "judge"]
    assert (made["tend"].folder / "text").read_text() == "0 ababab"
    assert not list((tmp_path / "field").glob("*.work"))


def test_damage_is_said_and_mended(fakes: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a damaged artefact being used, or replaced in silence."""
    made = run(field(), out=tmp_path)
    (made["sow"].folder / "text").write_text("xx")
    fakes.clear()
    capfd.readouterr()
    again = run(field(), out=tmp_path)
    assert fakes == ["sow"], "what was made from it is intact and stays"
    assert (again["sow"].folder / "text").read_text() == "ab"
    said = capfd.readouterr().err
    assert "damaged" in said and "text differs from its checksum" in said.replace("\n", " ")


def test_what_a_kill_left_half_written_is_removed(fakes: list[str], tmp_path: Path) -> None:
    """Catches partial folders piling up, or being taken for artefacts."""
    run(field(), out=tmp_path)
    part = tmp_path / "field" / ".03-judge-xyz.abc.part"
    part.mkdir()
    (part / "verdict").write_text("half")
    run(field(), out=tmp_path)
    assert not part.exists()


def test_a_second_run_is_refused(fakes: list[str], tmp_path: Path) -> None:
    """Catches two processes writing into one run."""
    with folder_lock(tmp_path / "field"), pytest.raises(FolderBusy, match="is in use"):
        run(field(), out=tmp_path)
    assert not fakes


def test_pilots_are_artefacts_of_their_own(fakes: list[str], tmp_path: Path) -> None:
    """Catches pilots that are repeated after an interruption, or that clash with the stage itself."""
    STOP["tend-pilot-4"] = 2
    with pytest.raises(TrainingStopped):
        run(field(pilots=(3, 4)), out=tmp_path)
    STOP.clear()
    fakes.clear()
    run(field(pilots=(3, 4)), out=tmp_path)
    assert fakes == ["tend-pilot-4:2", "tend-pilot-4:3", "tend:0", "tend:1", "judge"]


def test_examined_by_default(fakes: list[str], tmp_path: Path) -> None:
    """Catches the default of `models` taking waypoints, or forgetting an arm."""
    made = run(
        {"name": "f", "stages": [{"sow": {"text": "a"}}, {"tend": {"name": "x"}}, {"tend": {"name": "y"}}, "judge"]},
        out=tmp_path,
    )
    assert (made["judge"].folder / "verdict").read_text() == "x y"


def test_plan_only_makes_nothing(fakes: list[str], tmp_path: Path) -> None:
    """Catches a plan that already works or writes."""
    run(field(), out=tmp_path, plan_only=True)
    assert fakes == [] and not (tmp_path / "field").exists()


def test_one_stage_into_one_folder(fakes: list[str], tmp_path: Path) -> None:
    """Catches a single call that repeats finished work, overwrites other things, or leaves its work folder."""
    call("sow", {"text": "ab"}, tmp_path / "seeds")
    made = call("tend", {"from": str(tmp_path / "seeds"), "times": 3}, tmp_path / "plant")
    assert (made.folder / "text").read_text() == "0 ababab"
    fakes.clear()
    call("tend", {"from": str(tmp_path / "seeds"), "times": 3}, tmp_path / "plant")
    assert fakes == [] and sorted(path.name for path in tmp_path.iterdir()) == ["plant", "seeds"]
    with pytest.raises(ConfigError, match="holds something else"):
        call("tend", {"from": str(tmp_path / "seeds"), "times": 4}, tmp_path / "plant")
    with pytest.raises(ConfigError, match="holds a tokens, not a model"):
        call("judge", {"models": [str(tmp_path / "seeds")]}, tmp_path / "verdict")


def test_one_stage_goes_on_after_an_interruption(fakes: list[str], tmp_path: Path) -> None:
    """Catches a single call that starts anew after a kill, or refuses its own leftovers."""
    call("sow", {"text": "ab"}, tmp_path / "seeds")
    STOP["plant"] = 1
    with pytest.raises(TrainingStopped):
        call("tend", {"from": str(tmp_path / "seeds")}, tmp_path / "plant")
    STOP.clear()
    fakes.clear()
    call("tend", {"from": str(tmp_path / "seeds")}, tmp_path / "plant")
    assert fakes == ["plant:1"]


def test_one_stage_keeps_apart_what_is_different(fakes: list[str], tmp_path: Path) -> None:
    """Catches a single call that continues the leftovers of other values, or writes its pilots into its own folder."""
    call("sow", {"text": "ab"}, tmp_path / "seeds")
    STOP["plant"] = 2
    with pytest.raises(TrainingStopped):
        call("tend", {"from": str(tmp_path / "seeds"), "times": 3}, tmp_path / "plant")
    STOP.clear()
    STOP["plant-pilot-2"] = 1
    fakes.clear()
    other = {"from": str(tmp_path / "seeds"), "times": 4, "pilots": [1, 2]}
    with pytest.raises(TrainingStopped):
        call("tend", other, tmp_path / "plant")
    assert not (tmp_path / "plant").exists()
    STOP.clear()
    made = call("tend", other, tmp_path / "plant")
    assert fakes == ["plant-pilot-1:0", "plant-pilot-2:0", "plant-pilot-2:1", *(f"plant:{n}" for n in range(4))]
    assert (made.folder / "text").read_text() == "0 " + "ab" * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plant", "seeds"]


def test_recipe_and_single_calls_agree(fakes: list[str], tmp_path: Path) -> None:
    """Catches the two doors making different things."""
    whole = run(field(times=3), out=tmp_path)
    single = call("tend", {"from": str(whole["sow"].folder), "times": 3}, tmp_path / "plant")
    assert single.hash == whole["tend"].hash
    assert (single.folder / "text").read_bytes() == (whole["tend"].folder / "text").read_bytes()


def test_moved_runs_are_still_found(fakes: list[str], tmp_path: Path) -> None:
    """Catches artefacts that are bound to an absolute path or to their place in the list."""
    run(field(), out=tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    fakes.clear()
    recipe = field()
    recipe["stages"].insert(0, {"sow": {"name": "before", "text": "zz"}})
    recipe["stages"][2]["tend"]["from"] = "sow"
    run(recipe, out=tmp_path / "there")
    assert fakes == ["before"]
