"""Seconds until a loss is reached, from the start of a new interpreter, compilation included.

Two arms. In each a peer trains on 1.64 M tokens with the rates and the batch size that a sweep found; where it ends
is the mark. pomona runs a recipe and saves its model; plain transformers loads that model, finds the reference
architecture and a loss at or below the mark, or the run does not count. On both sides the clock stops when the trained
model is saved; the evaluation after it is free for both. Inductor's cache is empty at the start of every run.

Held equal: the tokens (the peers' rows are those that pomona's stream draws), the validation rows, the tokenizer, the
reference model.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import sweep, tokens
from benchmarks.harness import ROOT, WORK, Contender, Goal, Quiet, Spread, ratios, run_fresh, save, show_goals, table
from pomona.ground.console import say


@dataclass(frozen=True)
class Arm:
    """A peer that sets the mark, and the recipe that is to reach it sooner."""

    peer: str
    title: str
    recipe: str
    goal: float
    """How many times sooner."""


ARMS = {
    "a": Arm("trainer", "HF Trainer, AdamW", "benchmarks.recipes.time_to_loss_a:train", 10.0),
    "b": Arm("muon_loop", "Muon loop, compiled", "benchmarks.recipes.time_to_loss_b:train", 2.0),
}

Outcome = dict[str, Any]


def run_cold(contender: Contender, name: str) -> dict[str, Outcome]:
    """Run a contender in a new process with an empty compilation cache. Returns its events by name."""
    cache = WORK / "inductor" / name
    shutil.rmtree(cache, ignore_errors=True)
    contender = Contender(
        contender.name,
        contender.target,
        contender.options,
        {**contender.environment, "TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": str(cache / "triton")},
    )
    return {event["event"]: event for event in run_fresh(contender)}


def run_arm(key: str, folder: Path, options: dict[str, Any], shape: str) -> Outcome:
    """One round of an arm: the peer, then pomona."""
    arm = ARMS[key]
    where = WORK / "models" / f"time_to_loss_{key}"
    shutil.rmtree(where, ignore_errors=True)
    shared = {"tokens_folder": str(folder), "shape": shape}
    peer = run_cold(
        Contender(arm.title, sweep.PEERS[arm.peer], {**options, **shared, "folder": str(where / "peer")}), f"{key}-peer"
    )
    mark = peer["evaluated"]["loss"]
    say(f"{arm.title}: {mark:.3f} nats after {peer['trained']['seconds']:.1f} s")
    ours = run_cold(Contender("pomona", arm.recipe, {**shared, "folder": str(where / "ours")}), f"{key}-ours")
    judged = run_fresh(Contender("judge", "benchmarks.tokens:judge", {**shared, "folder": str(where / "ours")}))[-1]
    say(f"pomona: {judged['loss']:.3f} nats after {ours['trained']['seconds']:.1f} s")
    return {
        "peer_seconds": peer["trained"]["seconds"],
        "peer_loss": mark,
        "seconds": ours["trained"]["seconds"],
        "loss": judged["loss"],
        "is_reference_model": judged["is_reference"],
        "counts": judged["is_reference"] and judged["loss"] <= mark,
    }


def run(*, quick: bool = False, arms: str = "ab", repeats: int = 3, tokens_folder: Path | None = None) -> None:
    """Measure and print, one arm after the other; each is kept as soon as it is measured."""
    folder = tokens_folder or tokens.prepare(quick=quick)
    shape, repeats = ("toy", 1) if quick else ("reference", repeats)
    for key in arms:
        arm = ARMS[key]
        options = sweep.best(arm.peer, folder)
        if quick:
            options = {**options, "tokens": 2560, "batch_size": 4}
        with Quiet() as quiet:
            outcomes = [run_arm(key, folder, options, shape) for _ in range(repeats)]
        columns = {name: [outcome[name] for outcome in outcomes] for name in outcomes[0]}
        speedup, reached = ratios(columns["peer_seconds"], columns["seconds"]), all(columns["counts"])
        peer = (Spread.of(columns["peer_seconds"]).show(".1f", " s"), Spread.of(columns["peer_loss"]).show(".3f"), "")
        verdict = speedup.show(".2f", "x") if reached else "[red]mark not reached[/]"
        ours = (Spread.of(columns["seconds"]).show(".1f", " s"), Spread.of(columns["loss"]).show(".3f"), verdict)
        table(
            f"({key}) time to loss: from process start to the saved model, cold compilation included",
            ["", "wall-clock", "validation, nats/token", "sooner"],
            [(arm.title, *peer), ("pomona", *ours)],
            f"median (range) of {repeats}",
        )
        # A run that misses the mark counts as no speed-up at all, however fast it was.
        goals = [Goal(f"({key}) times sooner than {arm.title}", speedup.median if reached else 0.0, arm.goal)]
        show_goals(goals)
        code = [Path(__file__), *(ROOT / "benchmarks" / name for name in ("tokens.py", "sweep.py", "shapes.py"))]
        code += [ROOT / "benchmarks" / "peers" / f"{arm.peer}.py"]
        code += [ROOT / "benchmarks" / "recipes" / name for name in ("phases.py", f"time_to_loss_{key}.py")]
        save(
            f"time_to_loss_{key}",
            config={"repeats": repeats, "shape": shape, "peer_options": options},
            measured={"rounds": outcomes, "machine_use": quiet.facts()},
            goals=goals,
            code=code,
            quick=quick,
        )


def command(arguments: list[str] | None = None) -> None:
    """The command line: the comparison, or the sweep of the peers."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_loss", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="a toy model, a minute: shows that it works, proves nothing"
    )
    parser.add_argument("--arms", default="ab", choices=("a", "b", "ab"), help="which comparison")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the comparison")
    parser.add_argument("--tokens", type=Path, help="a prepared folder of tokens (train.npy, validation.npy)")
    parser.add_argument(
        "--sweep", action="store_true", help="search the peers' rates and batch sizes, keep every trial"
    )
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="with --sweep: stop starting trials after this"
    )
    options = parser.parse_args(arguments)
    if options.sweep:
        folder = options.tokens or tokens.prepare()
        sweep.sweep(folder, [ARMS[key].peer for key in options.arms], minutes=options.minutes)
        sweep.show(folder)
    else:
        run(quick=options.quick, arms=options.arms, repeats=options.repeats, tokens_folder=options.tokens)


if __name__ == "__main__":
    command()
