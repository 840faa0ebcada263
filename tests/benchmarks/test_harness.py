from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import harness
from benchmarks.harness import Contender, ContenderFailed, Goal, Spread, interleave, ratios, run_fresh
from benchmarks.meter import Meter
from pomona.ground.files import read_json

SLEEPERS = "tests.benchmarks.sleepers"


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_meter_reports_rounds_after_the_warm_up() -> None:
    """Catches warm-up steps that are counted, and rounds of the wrong length."""
    sent = io.StringIO()
    meter = Meter(sent, io.StringIO("go\ngo\ngo\n"), ticks_per_round=3, warmup_ticks=2)
    for step in range(2 + 3 + 3):
        meter.note(step=step)
        meter.tick()
    assert [event["event"] for event in events(sent)] == ["warm", "round", "round"]
    assert [event["step"] for event in events(sent)[1:]] == [4, 7]
    assert all(event["ticks"] == 3 for event in events(sent)[1:])


def test_a_meter_without_rounds_lets_a_job_run_through() -> None:
    """Catches a fresh run that stops at its first step to wait for a turn nobody gives."""
    sent = io.StringIO()
    meter = Meter(sent, io.StringIO(""))
    meter.tick()
    assert sent.getvalue() == ""


def test_contenders_take_turns_and_never_run_together() -> None:
    """Catches contenders that work while another one is measured, and an order that is always the same."""
    pair = [Contender(name, f"{SLEEPERS}:steady", {"seconds": 0.02}) for name in ("a", "b")]
    rounds = interleave(pair, rounds=4, ticks_per_round=2, warmup_ticks=1)
    assert [len(rounds[name]) for name in ("a", "b")] == [4, 4]
    spans = sorted((event["at"] - event["seconds"], event["at"], name) for name in rounds for event in rounds[name])
    assert all(before[1] <= after[0] + 1e-3 for before, after in pairwise(spans))
    assert "".join(name for *_, name in spans) == "abbaabba"
    assert all(0.04 <= event["seconds"] < 0.2 for name in rounds for event in rounds[name])


def test_a_fresh_run_counts_from_the_start_of_the_process() -> None:
    """Catches a clock that starts after the interpreter has, and events out of order."""
    found = run_fresh(Contender("job", f"{SLEEPERS}:job", {"loss": 2.5}))
    assert [event["event"] for event in found] == ["trained", "evaluated"]
    assert 0.01 < found[0]["seconds"] <= found[1]["seconds"] < 30
    assert found[1]["loss"] == 2.5


@pytest.mark.parametrize("fresh", [True, False])
def test_a_contender_that_fails_is_named_with_its_own_message(fresh: bool) -> None:
    """Catches a failure that is swallowed, or that hangs the others for ever."""
    broken = Contender("the broken one", f"{SLEEPERS}:broken")
    with pytest.raises(ContenderFailed, match=r"(?s)the broken one.*the reason that a person needs to see"):
        if fresh:
            run_fresh(broken)
        else:
            interleave([broken], rounds=1, ticks_per_round=1, warmup_ticks=1)


def test_ratios_are_formed_within_a_round() -> None:
    """Catches a ratio of medians, which mixes the weather of different rounds."""
    assert ratios([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == Spread(2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


def test_a_goal_knows_its_direction() -> None:
    """Catches "at most" goals judged as "at least" ones."""
    assert Goal("speed", 1.9, 1.8).reached
    assert not Goal("speed", 1.7, 1.8).reached
    assert Goal("wait", 0.4, 0.5, at_least=False, unit="s").reached
    assert not Goal("wait", 0.6, 0.5, at_least=False, unit="s").reached


def test_a_result_holds_what_a_reader_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches results without machine, versions or code, and a quick run that overwrites a full one."""
    monkeypatch.setattr(harness, "RESULTS", harness.ROOT / "runs" / "test-results")
    monkeypatch.setattr(harness, "WORK", harness.ROOT / "runs" / "test-work")
    goals = [Goal("speed", 1.9, 1.8)]
    full = harness.save("thing", config={"rounds": 2}, measured={"seconds": [1.0]}, goals=goals)
    quick = harness.save("thing", config={}, measured={}, quick=True)
    try:
        assert full.parent != quick.parent
        result = read_json(full)
        assert result["goals"][0]["reached"] is True
        assert {"processor", "cores"} <= set(result["machine"])
        assert result["versions"]["pomona"]
        assert len(result["code"]["benchmarks/harness.py"]) == 16
    finally:
        full.unlink()
        quick.unlink()


def test_an_unknown_benchmark_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a typo that measures nothing and reports success."""
    with pytest.raises(SystemExit) as stopped:
        command.main(["train-step"])
    assert stopped.value.code == 2
    assert "did you mean 'train_step'" in capsys.readouterr().err
