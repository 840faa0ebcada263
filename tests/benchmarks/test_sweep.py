from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import sweep
from pomona.ground.files import write_json


@pytest.fixture
def tokens_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sweep, "SWEEPS", tmp_path / "sweeps.json")
    monkeypatch.setattr(sweep, "GRIDS", {"trainer": {"batch_size": (4, 8), "learning_rate": (1e-3, 2e-3)}})
    (tmp_path / "train.npy").write_bytes(b"tokens")
    return tmp_path


def finished(folder: Path, losses: dict[tuple[int, int, float], float]) -> None:
    """Write trials: (tokens, batch size, rate) -> loss."""
    data = sweep.file_hash(folder / "train.npy")[:16]
    trials = [
        {
            "peer": "trainer",
            "data": data,
            "options": dict(zip(("tokens", "batch_size", "learning_rate"), key, strict=True)),
            "loss": loss,
        }
        for key, loss in losses.items()
    ]
    write_json(sweep.SWEEPS, {"trials": trials})


def test_a_sweep_climbs_and_then_takes_the_best_to_full_length(
    tokens_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a sweep that never ends, repeats trials, or takes the worst to full length."""
    asked: list[dict[str, Any]] = []

    def fake(peer: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        asked.append(options)
        loss = options["learning_rate"] * options["batch_size"]
        data = sweep.file_hash(folder / "train.npy")[:16]
        return {"peer": peer, "data": data, "options": dict(options), "loss": loss, "steps": 1}

    monkeypatch.setattr(sweep, "run_trial", fake)
    assert sweep.sweep(tokens_folder, ["trainer"], jobs=1)
    assert len(asked) == 4 + sweep.KEPT
    full = [options for options in asked if options["tokens"] == sweep.FULL]
    assert [options["batch_size"] * options["learning_rate"] for options in full] == [4e-3, 8e-3]
    assert sweep.sweep(tokens_folder, ["trainer"], jobs=1)
    assert len(asked) == 4 + sweep.KEPT, "a finished sweep is not run again"
    assert sweep.best("trainer", tokens_folder) == {"tokens": sweep.FULL, "batch_size": 4, "learning_rate": 1e-3}


def test_the_climb_asks_around_its_best_point_only(tokens_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a climb that goes over the whole grid, or that leaves a side of its best point untried."""
    grid = {"batch_size": (2, 4, 8, 16), "learning_rate": (1e-3, 2e-3, 4e-3, 8e-3)}
    monkeypatch.setattr(sweep, "GRIDS", {"trainer": grid})
    short = sweep.SHORT
    finished(tokens_folder, {(short, 8, 4e-3): 0.2, (short, 4, 4e-3): 0.1, (short, 4, 2e-3): 0.3, (1, 2, 5e-4): 0.0})
    asked = [(each["batch_size"], each["learning_rate"]) for each in sweep.planned("trainer", tokens_folder)]
    assert asked == [(2, 4e-3), (4, 8e-3)]


def test_a_full_trial_decides_before_a_short_one(tokens_folder: Path) -> None:
    """Catches a short trial, whose loss says little about the end, that decides the comparison."""
    finished(tokens_folder, {(sweep.SHORT, 4, 1e-3): 0.1, (sweep.FULL, 8, 2e-3): 0.3, (sweep.FULL, 4, 2e-3): 0.2})
    assert sweep.best("trainer", tokens_folder) == {"tokens": sweep.FULL, "batch_size": 4, "learning_rate": 2e-3}
    finished(tokens_folder, {(sweep.SHORT, 4, 1e-3): 0.1, (sweep.SHORT, 8, 1e-3): 0.2})
    assert sweep.best("trainer", tokens_folder) == {"tokens": sweep.FULL, "batch_size": 4, "learning_rate": 1e-3}


def test_other_tokens_make_a_sweep_void(tokens_folder: Path) -> None:
    """Catches a sweep that counts as done on tokens it never saw; its best options serve until it is repeated."""
    finished(tokens_folder, {(sweep.FULL, 8, 2e-3): 0.3})
    (tokens_folder / "train.npy").write_bytes(b"other tokens")
    assert sweep.trials("trainer", tokens_folder) == []
    assert sweep.planned("trainer", tokens_folder) == [{"tokens": sweep.SHORT, "batch_size": 8, "learning_rate": 2e-3}]
    assert sweep.best("trainer", tokens_folder)["batch_size"] == 8


def test_a_sweep_stops_when_its_time_is_up(tokens_folder: Path) -> None:
    """Catches a limit that is not kept."""
    assert not sweep.sweep(tokens_folder, ["trainer"], minutes=0.0)
