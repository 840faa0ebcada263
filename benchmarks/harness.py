"""How measurements are made: contenders in processes of their own, taking turns, medians and ratios pair by pair.

A contender is a function `f(meter, **options)` in a process of its own, so that no allocator switch, thread pool or
compiled graph of one reaches another. Two kinds of measurement:

- `interleave`: throughput. Every contender warms up, then they take turns, A B C C B A A B C ..., one working while the
  others sleep. A ratio is formed within a round, where both ran under the same weather; median and range are reported.
- `run_fresh`: wall-clock of a whole job, from the start of a new interpreter to the event the contender reports.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

import psutil
from rich.table import Table

from pomona.ground.console import output, say, warn
from pomona.ground.files import write_json
from pomona.ground.machine import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "runs" / "benchmarks"
"""Where prepared data and trained models go: ignored by git, safe to delete."""

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "compressed-tensors", "torchao", "numpy", "pomona")


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Args:
        name: what the table calls it.
        target: `module:function`, called with a `Meter` and the options in a process of its own.
        options: keyword arguments, JSON values only: they are the whole configuration and are kept with the result.
        environment: variables set for the process before it starts.
    """

    name: str
    target: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


class ContenderFailed(RuntimeError):
    """A contender's process ended without reporting; its own message was printed above."""


# ---------------------------------------------------------------- the parent's side


class Worker:
    """A contender's process as the parent sees it."""

    def __init__(self, contender: Contender, *, ticks_per_round: int = 0, warmup_ticks: int = 0) -> None:
        self.contender = contender
        down_read, down_write = os.pipe()
        up_read, up_write = os.pipe()
        protocol = {
            "target": contender.target,
            "options": dict(contender.options),
            "ticks_per_round": ticks_per_round,
            "warmup_ticks": warmup_ticks,
            "receive": down_read,
            "send": up_write,
        }
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(protocol)],
            pass_fds=(down_read, up_write),
            cwd=ROOT,
            env={**os.environ, **contender.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.close(down_read)
        os.close(up_write)
        self._down = os.fdopen(down_write, "w")
        self._up = os.fdopen(up_read)
        self._printed: list[str] = []
        # Its own words are kept for the case that it fails: a pipe that nobody reads would fill and stop it.
        self._reader = threading.Thread(target=self._read_output, daemon=True)
        self._reader.start()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._printed.append(line)
            del self._printed[:-200]

    def next_event(self) -> dict[str, Any] | None:
        """Wait for the next event; None when the process has closed its side."""
        line = self._up.readline()
        return json.loads(line) if line else None

    def expect(self, name: str) -> dict[str, Any]:
        """Wait for the event `name`, passing over others."""
        while (event := self.next_event()) is not None:
            if event["event"] == name:
                return event
        self.process.wait()
        self._reader.join(timeout=5)
        raise ContenderFailed(
            f"{self.contender.name} ended with status {self.process.returncode}:\n" + "".join(self._printed)
        )

    def go(self) -> None:
        """Let it do its next round."""
        self._down.write("go\n")
        self._down.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._down.close()  # end of input: it leaves at its next tick
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(timeout=5)
        self._up.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


def interleave(
    contenders: Sequence[Contender], *, rounds: int, ticks_per_round: int, warmup_ticks: int
) -> dict[str, list[dict[str, Any]]]:
    """Measure every contender `rounds` times in turn.

    Returns:
        By name, one event per round: `seconds`, `ticks`, and what the contender noted.
    """
    results: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
    with ExitStack() as stack:
        workers = []
        for contender in contenders:
            worker = stack.enter_context(Worker(contender, ticks_per_round=ticks_per_round, warmup_ticks=warmup_ticks))
            warm = worker.expect("warm")  # one after the other: nobody compiles while another is measured
            say(f"[dim]{contender.name}: ready after {warm['at'] - worker.started:.1f} s[/]")
            workers.append(worker)
        for number in range(rounds):
            # The order turns round every time, so that nobody always runs after the same neighbour.
            for worker in workers if number % 2 == 0 else reversed(workers):
                worker.go()
                results[worker.contender.name].append(worker.expect("round"))
    return results


def run_fresh(contender: Contender) -> list[dict[str, Any]]:
    """Run a contender once in a new process.

    Returns:
        Its events, each with `seconds` since the process was started (interpreter start and imports included).
    """
    events = []
    with Worker(contender) as worker:
        while (event := worker.next_event()) is not None:
            event["seconds"] = event.pop("at") - worker.started
            events.append(event)
        if worker.process.wait() != 0:
            worker.expect("end")  # raises, with what it printed
    return events


class Quiet:
    """How much of the machine others used while the block ran: a measurement is worth keeping only when it is little.

    `others` and `stolen` are shares of all cores' time: by processes that are not ours, and by the hypervisor.
    """

    def __enter__(self) -> Self:
        self._before = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        total, busy, own, stolen = (after - before for after, before in zip(self._now(), self._before, strict=True))
        self.others = round(max(0.0, busy - own) / max(total, 1e-9), 3)
        self.stolen = round(stolen / max(total, 1e-9), 3)
        if self.others + self.stolen > 0.03:
            warn(f"not a quiet machine: others used {self.others:.0%} of it, {self.stolen:.0%} was stolen")

    @staticmethod
    def _now() -> tuple[float, float, float, float]:
        """All cores' seconds, the busy ones, ours (children that have ended included), the stolen ones."""
        times, own = psutil.cpu_times(), os.times()
        stolen = getattr(times, "steal", 0.0)
        idle = times.idle + getattr(times, "iowait", 0.0)
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return total, total - idle - stolen, own.user + own.system + own.children_user + own.children_system, stolen

    def facts(self) -> dict[str, float]:
        return {"others": self.others, "stolen": self.stolen}


# ---------------------------------------------------------------- numbers


@dataclass(frozen=True)
class Spread:
    """A handful of values: the middle one, and the range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(median(values), min(values), max(values))

    def scaled(self, factor: float) -> Spread:
        """In another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def show(self, form: str = ".1f", unit: str = "") -> str:
        return f"{self.median:{form}}{unit} ({self.low:{form}}-{self.high:{form}})"


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Ratios round by round: the two values of a round were measured next to each other."""
    return Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])


# ---------------------------------------------------------------- tables and files


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "", *, texts: int = 1) -> None:
    """Print a table: the first `texts` columns are text, the others numbers."""
    shown = Table(title=title, title_justify="left", title_style="bold", caption=note or None, caption_justify="left")
    for number, column in enumerate(columns):
        shown.add_column(column, justify="left" if number < texts else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    output().print(shown)


@dataclass(frozen=True)
class Goal:
    """A figure next to what it should reach."""

    name: str
    value: float
    target: float
    at_least: bool = True
    unit: str = "x"

    @property
    def reached(self) -> bool:
        return self.value >= self.target if self.at_least else self.value <= self.target

    def show(self) -> tuple[str, str, str, str]:
        sign, form = (">=" if self.at_least else "<="), ".3g"
        mark = "[green]reached[/]" if self.reached else "[red]missed[/]"
        return self.name, f"{self.value:{form}} {self.unit}", f"{sign} {self.target:{form}} {self.unit}", mark


def show_goals(goals: Sequence[Goal]) -> None:
    """Print the goals of a benchmark."""
    table("goals", ["", "measured", "goal", ""], [goal.show() for goal in goals])


def save(
    name: str,
    *,
    config: Mapping[str, Any],
    measured: Mapping[str, Any],
    goals: Sequence[Goal] = (),
    code: Sequence[Path] = (),
    quick: bool = False,
) -> Path:
    """Write results/NAME.json: machine, versions, configuration, raw values, goals, hash of the code that was measured.

    A quick run goes beside the working data instead, never over a full one. No date: a result is identified by what was
    measured on what.
    """
    path = (WORK / "quick" if quick else RESULTS) / f"{name}.json"
    write_json(
        path,
        {
            "benchmark": name,
            "machine": machine().asdict(),
            "versions": versions(),
            "code": code_hash([*code, Path(__file__)]),
            "config": dict(config),
            "goals": [{**asdict(goal), "reached": goal.reached} for goal in goals],
            "measured": dict(measured),
        },
    )
    say(f"[dim]written: {path.relative_to(ROOT)}[/]")
    return path


def versions() -> dict[str, str]:
    """Versions of the packages that move these numbers, those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_hash(files: Sequence[Path]) -> dict[str, str]:
    """First 16 digits of each file's SHA-256, so that a result whose code changed is seen to be stale."""
    return {
        file.resolve().relative_to(ROOT).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        for file in sorted({Path(file).resolve() for file in files})
    }


def main(run: Callable[..., object], description: str | None, arguments: Sequence[str] | None = None) -> None:
    """The command line of one benchmark: `python -m benchmarks.NAME [--quick]`."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a minute instead of many: shows that it works, proves nothing"
    )
    run(quick=parser.parse_args(arguments).quick)
