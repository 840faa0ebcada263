"""How long a person waits before pomona answers: import, help, the list of methods, opening made shards."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import ROOT, Contender, Goal, Quiet, Spread, interleave, main, save, show_goals, table

COMMANDS = {
    "python, nothing else": [sys.executable, "-c", "pass"],
    "import pomona": [sys.executable, "-c", "import pomona"],
    "pomona --help": [str(Path(sys.executable).parent / "pomona"), "--help"],
    "pomona methods": [str(Path(sys.executable).parent / "pomona"), "methods"],
}


def imports_torch(command: list[str]) -> bool:
    """Whether a command imports torch, as the interpreter's own import log says."""
    script = command[1:] if command[0] == sys.executable else command
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return re.search(r"\|\s+torch$", done.stderr, re.MULTILINE) is not None


def seconds_of(command: list[str]) -> float:
    """Wall-clock of one run of a command."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def run(*, quick: bool = False) -> None:
    """Measure and print."""
    repeats = 2 if quick else 9
    with Quiet() as quiet:
        for command in COMMANDS.values():
            seconds_of(command)  # compiled files and the disk cache: once
        seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for _ in range(repeats):
            for name, command in COMMANDS.items():
                seconds[name].append(seconds_of(command))
        from benchmarks.tokens import prepare

        folder = prepare(quick=quick)
        opening = Contender("opening shards", "benchmarks.ours:open_tokens", {"folder": str(folder / "tokens")})
        rounds = interleave([opening], rounds=repeats, ticks_per_round=1, warmup_ticks=1)
    seconds[opening.name] = [event["seconds"] for event in rounds[opening.name]]
    torch_free = {name: not imports_torch(command) for name, command in COMMANDS.items()}

    rows = [
        (
            name,
            Spread.of(values).scaled(1e3).show(".0f", " ms"),
            "" if name not in torch_free else "no" if torch_free[name] else "[red]yes[/]",
        )
        for name, values in seconds.items()
    ]
    table("start-up", ["", "wall-clock", "imports torch"], rows, f"median (range) of {repeats}")
    goals = [Goal(name, Spread.of(seconds[name]).median, 0.5, at_least=False, unit="s") for name in list(COMMANDS)[1:]]
    goals.append(Goal(opening.name, 1e3 * Spread.of(seconds[opening.name]).median, 50, at_least=False, unit="ms"))
    goals.append(
        Goal("of these import torch", sum(not free for free in torch_free.values()), 0, at_least=False, unit="")
    )
    show_goals(goals)
    save(
        "startup",
        config={"repeats": repeats, "commands": list(COMMANDS)},
        measured={"seconds": seconds, "torch_free": torch_free, "machine_use": quiet.facts()},
        goals=goals,
        code=[Path(__file__), ROOT / "benchmarks" / "ours.py"],
        quick=quick,
    )


if __name__ == "__main__":
    main(run, __doc__)
