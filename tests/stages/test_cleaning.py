"""What changed recipes leave behind is told from what is still needed, and only that is removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pomona.ground.errors import ConfigError, FolderBusy, TrainingStopped
from pomona.ground.files import folder_lock
from pomona.stages import run
from pomona.stages.cleaning import leftovers, remove
from tests.stages.fake_stages import STOP


def field(**tend: Any) -> dict[str, Any]:
    return {"name": "field", "stages": [{"sow": {"text": "ab"}}, {"tend": tend}, "judge"]}


def interrupted(tmp_path: Path, stage: str, at: int, **tend: Any) -> None:
    STOP[stage] = at
    with pytest.raises(TrainingStopped):
        run(field(**tend), out=tmp_path)
    STOP.clear()


def test_work_that_will_be_continued_is_kept(fakes: list[str], tmp_path: Path) -> None:
    """Catches `clean` throwing away the checkpoints of a run that was interrupted, its pilots' among them."""
    interrupted(tmp_path, "tend-pilot-4", 1, pilots=(3, 4))
    assert len(list((tmp_path / "field").glob("*.work"))) == 2
    assert leftovers(tmp_path / "field", finished=True) == []


def test_work_of_other_values_is_told_and_removed(
    fakes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches checkpoints of superseded values piling up unseen, or going away unasked."""
    interrupted(tmp_path, "tend", 1, times=3)
    run(field(times=2), out=tmp_path)
    assert "no longer needed: unfinished work in 1 folder" in capsys.readouterr().err
    (left,) = leftovers(tmp_path / "field")
    assert left.folder.suffix == ".work" and left.bytes > 0 and left.why == "unfinished work of tend, which has changed"
    remove(tmp_path / "field", [left])
    assert not list((tmp_path / "field").glob("*.work"))
    fakes.clear()
    run(field(times=2), out=tmp_path)
    assert fakes == [] and "clean" not in capsys.readouterr().err


def test_work_of_what_was_finished_elsewhere_goes(fakes: list[str], tmp_path: Path) -> None:
    """Catches a work folder that stays for ever because another recipe finished the stage."""
    interrupted(tmp_path, "tend", 1, times=3)
    run({**field(times=3), "name": "other"}, out=tmp_path)
    run(field(times=3), out=tmp_path)
    assert not list((tmp_path / "field").glob("*.work"))


def test_finished_folders_are_listed_on_request(fakes: list[str], tmp_path: Path) -> None:
    """Catches superseded results and pilots that are kept for ever, and needed ones that are offered."""
    run(field(times=3), out=tmp_path)
    run(field(times=2, pilots=(5,)), out=tmp_path)
    assert leftovers(tmp_path / "field") == []
    found = leftovers(tmp_path / "field", finished=True)
    assert sorted(each.why for each in found) == [
        "a pilot of tend, which is finished",
        "judge with other values",
        "tend with other values",
    ]
    remove(tmp_path / "field", found)
    fakes.clear()
    run(field(times=2, pilots=(5,)), out=tmp_path)
    assert fakes == [], "what the recipe leads to is still there"


def test_what_is_no_run_and_what_is_busy(fakes: list[str], tmp_path: Path) -> None:
    """Catches a mistyped folder being emptied, and a run losing its work while it works."""
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        leftovers(tmp_path, finished=True)
    run(field(times=2), out=tmp_path)
    run(field(times=3), out=tmp_path)
    found = leftovers(tmp_path / "field", finished=True)
    with folder_lock(tmp_path / "field"), pytest.raises(FolderBusy):
        remove(tmp_path / "field", found)
    assert all(each.folder.is_dir() for each in found) and found
