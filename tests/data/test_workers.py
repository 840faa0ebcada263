"""Work in other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pomona.data.workers import run_tasks
from pomona.ground.errors import DataError, PomonaError

HERE = "tests.data.test_workers"


def square(task: Mapping[str, Any]) -> list[int]:
    """What the workers are asked for."""
    print("noise that is not an answer")  # noqa: T201
    return [task["x"] ** 2, os.getpid()]


def refuse(task: Mapping[str, Any]) -> None:
    """An error with all of its facts."""
    raise DataError("wrong", where=f"line {task['x']}", needs="n", found="f", do="d")


def die(task: Mapping[str, Any]) -> None:
    """What a killed worker looks like."""
    os._exit(9)


TASKS = [{"x": number} for number in range(30)]


def test_answers_come_in_order_from_several_processes() -> None:
    """Catches answers that are mixed up, printed text taken for one, and work that is not shared."""
    answers = list(run_tasks(f"{HERE}:square", TASKS, workers=2))
    assert [answer[0] for answer in answers] == [number**2 for number in range(30)]
    assert len({answer[1] for answer in answers} - {os.getpid()}) == 2


def test_one_worker_stays_in_this_process() -> None:
    """Catches processes started for a single task."""
    assert next(iter(run_tasks(f"{HERE}:square", TASKS, workers=1)))[1] == os.getpid()
    assert next(iter(run_tasks(f"{HERE}:square", TASKS[:1], workers=8)))[1] == os.getpid()
    assert list(run_tasks(f"{HERE}:square", [])) == []


def test_errors_arrive_whole() -> None:
    """Catches an error that loses its class, its place or its remedy on the way."""
    with pytest.raises(DataError) as caught:
        list(run_tasks(f"{HERE}:refuse", TASKS, workers=2))
    error = caught.value
    assert (error.what, error.where, error.needs, error.found, error.do) == ("wrong", "line 0", "n", "f", "d")


def test_a_dead_worker_is_noticed() -> None:
    """Catches a caller that waits for ever."""
    with pytest.raises(PomonaError, match=r"a worker process died(.|\n)*exit code 9"):
        list(run_tasks(f"{HERE}:die", TASKS, workers=2))


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    """Catches workers that import the caller's main module."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        print("started")
        from pomona.data.workers import run_tasks
        print(sum(answer[0] for answer in run_tasks("{HERE}:square", [{{"x": 1}}, {{"x": 2}}], workers=2)))
        """)
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert run.stdout.splitlines() == ["started", "5"], run.stderr
