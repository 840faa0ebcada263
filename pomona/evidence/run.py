"""Run a card, and say where the evidence stands."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pomona.catalog.fingerprint import fingerprint
from pomona.catalog.listing import Row, find, rows
from pomona.catalog.listing import module_of as method_of
from pomona.evidence.card import SCALES, Card, Experiment, Scale, Stages, Verdict, card_of, has_card, module_of
from pomona.evidence.code import code_of, compared
from pomona.evidence.direct import DirectCard, run_direct
from pomona.evidence.result import RESULTS, Result, State, described, results_of, sealed, write_result
from pomona.evidence.table import Table
from pomona.evidence.trials import run_trials
from pomona.ground.console import say
from pomona.ground.errors import ConfigError, did_you_mean
from pomona.ground.machine import machine
from pomona.stages import load
from pomona.stages.runner import versions

WORK = Path("runs/evidence")
"""Where the runs of experiments lie unless told otherwise."""


def run_evidence(
    slug: str, scale: Scale = "tiny", *, seeds: int | None = None, work: Path = WORK, results: Path = RESULTS
) -> Result:
    """Run the card of a published system and write its result.

    What is made already is reused: an interrupted run continues, and more seeds add to those that are there.

    Args:
        slug: of the system.
        scale: see `pomona.evidence.card.SCALES`.
        seeds: 0, 1, ... so many; default: as the card says.
        work: folder of the runs. results: folder of the results.

    Raises:
        ConfigError: there is no such card or scale, or an arm cannot run; nothing was computed.
    """
    if scale not in SCALES:
        raise ConfigError(f"there is no scale {scale!r}", do=did_you_mean(scale, SCALES))
    card = card_of(slug)
    if seeds is not None and seeds < 1:
        raise ConfigError("an experiment needs at least one seed", found=str(seeds))
    return run_card(card, scale, seeds or card.seeds, work=work, results=results)


def run_card(card: Experiment, scale: Scale, seeds: int, *, work: Path, results: Path) -> Result:
    """`run_evidence` of a card at hand."""
    arms = card.arms(scale)
    modules = measured(card, {name: arm.stages for name, arm in arms.items()})
    code = fingerprint(modules)  # as it is when the run begins
    say(f"[bold]{card.slug}[/] at scale {scale}, {seeds} seeds\n  claim: {card.claim}\n  equal: {card.equal}")
    card.prepare(scale)
    if isinstance(card, DirectCard):
        trials = run_direct(card, scale, range(seeds), work, code)
    else:
        assert isinstance(card, Card)
        trials = run_trials(
            f"{card.slug}.{scale}",
            {name: arm.stages for name, arm in arms.items()},
            dict.fromkeys(arms, card.measure),
            range(seeds),
            work,
            salt=code_of,
        )
    verdict = card.judge(Table(trials))
    result = sealed(
        Result(
            **described(card, scale),
            trials=trials,
            verdict=verdict,
            versions=versions(),
            machine=machine().asdict(),
            modules=tuple(sorted(modules)),
            code=code,
            day=datetime.datetime.now(datetime.UTC).date().isoformat(),
        )
    )
    file = write_result(result, results)
    say(f"[bold]{card.slug}: {verdict.status}[/], {verdict.because}\n[dim]written: {file}[/]")
    return result


def measured(card: Experiment, arms: Mapping[str, Stages]) -> set[str]:
    """The modules that a result is about: the card, its method, and what the arms are compared by."""
    recipes = {name: load({"name": card.slug, "stages": list(stages)}) for name, stages in arms.items() if stages}
    found = compared({name: recipe.stages for name, recipe in recipes.items()}) if recipes else set()
    return {module_of(card.slug), method_of(find(card.slug)), *found}


@dataclass(frozen=True)
class Standing:
    """Where the evidence for one system stands: its largest result, where there is one."""

    row: Row
    has_card: bool
    result: Result | None

    @property
    def state(self) -> State | str:
        if self.result is not None:
            return self.result.state
        return "not run" if self.has_card else "no card"

    @property
    def verdict(self) -> Verdict | None:
        return self.result.verdict if self.result else None


def standings(results: Path = RESULTS) -> Sequence[Standing]:
    """One for each published system of the catalog, in its order."""
    found = []
    for row in rows():
        if row.origin != "published":
            continue
        made = results_of(row.slug, results)
        found.append(Standing(row, has_card(row.slug), made[-1] if made else None))
    return found
