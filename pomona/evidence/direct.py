"""Cards whose arms are no recipes: a tool is put to the test on what is planted for it, anew for every seed.

A direct card says how an arm is carried out with a seed. What came out of each
arm and seed is kept with the fingerprint of the code, so that an interrupted experiment continues.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pomona.evidence.card import Experiment, Scale
from pomona.evidence.table import Trial
from pomona.ground.console import say
from pomona.ground.files import read_json, write_json


@dataclass(frozen=True, kw_only=True)
class DirectCard(Experiment):
    """An experiment whose arms are functions of the seed.

    Attributes:
        attempt: the metrics of an arm at a seed; it may write into the folder that it is given, which is empty.
    """

    attempt: Callable[[Scale, str, int, Path], Mapping[str, float]]


def run_direct(card: DirectCard, scale: Scale, seeds: Sequence[int], work: Path, code: str) -> tuple[Trial, ...]:
    """Carry out every arm with every seed, in turns.

    Args:
        code: fingerprint of what is measured; what is there of the same code is not repeated.
    """
    from pomona.evidence.trials import folder_name, rotated  # which imports torch, as asking for a card should not

    arms = list(card.arms(scale))
    trials = []
    for turn, seed in enumerate(seeds):
        for arm in rotated(arms, turn):
            folder = work / folder_name(f"{card.slug}.{scale}-{arm}-{seed}")
            file = folder / "trial.json"
            kept = read_json(file) if file.is_file() else {}
            if kept.get("code") != code:
                say(f"[bold]{card.slug}[/] {arm}, seed {seed}")
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                start = time.perf_counter()
                metrics = dict(card.attempt(scale, arm, seed, folder))
                kept = {"code": code, "metrics": metrics, "seconds": time.perf_counter() - start}
                write_json(file, kept)
            trials.append(Trial(arm, seed, kept["metrics"], seconds=kept["seconds"]))
    return tuple(sorted(trials, key=lambda trial: (arms.index(trial.arm), trial.seed)))
