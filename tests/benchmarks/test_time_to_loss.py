from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness, sweep, time_to_loss, tokens
from benchmarks.meter import Meter
from benchmarks.recipes import time_to_loss_a
from pomona.ground.files import read_json


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No benchmark's working data or results are touched."""
    monkeypatch.setattr(harness, "WORK", tmp_path / "runs")
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    monkeypatch.setattr(harness, "code_hash", lambda files: {})
    monkeypatch.setattr(sweep, "SWEEPS", tmp_path / "sweeps.json")
    return tmp_path


def heard(sent: io.StringIO) -> dict[str, dict[str, Any]]:
    return {event["event"]: event for event in map(json.loads, sent.getvalue().splitlines())}


def test_a_recipe_makes_the_reference_model(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a recipe that saves a model of another shape, and prepared tokens that pomona cannot open."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        lines = [f"The apple number {number * line} falls {line} meters from tree {number}." for line in range(20)]
        (source / f"{number}.txt").write_text("\n".join(lines))
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    monkeypatch.setattr(tokens, "QUICK_SOURCE", "source")
    folder = tokens.prepare(quick=True)
    sent = io.StringIO()
    meter = Meter(sent, io.StringIO(""))
    time_to_loss_a.train(meter, tokens_folder=str(folder), folder=str(tmp_path / "model"), shape="toy", steps=3)
    tokens.judge(meter, folder=str(tmp_path / "model"), tokens_folder=str(folder), shape="toy")
    assert heard(sent)["trained"]["steps"] >= 3
    assert heard(sent)["judged"]["is_reference"] is True
    assert 0 < heard(sent)["judged"]["loss"] < 7


@pytest.mark.parametrize(("loss", "goal"), [(5.0, 12.0), (5.4, 0.0)])
def test_a_run_that_misses_the_mark_counts_for_nothing(
    work: Path, monkeypatch: pytest.MonkeyPatch, loss: float, goal: float
) -> None:
    """Catches speed that was bought with a worse model."""
    outcome = {"peer_seconds": 240.0, "peer_loss": 5.3, "seconds": 20.0, "loss": loss}
    outcome |= {"is_reference_model": True, "counts": loss <= 5.3}
    monkeypatch.setattr(time_to_loss, "run_arm", lambda *arguments: outcome)
    time_to_loss.run(arms="a", repeats=2, tokens_folder=work)
    assert read_json(work / "results" / "time_to_loss_a.json")["goals"][0]["value"] == goal
