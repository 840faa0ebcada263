"""A result: what was run, every number that came out, and whether the code it is about is still the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pomona.catalog.fingerprint import fingerprint
from pomona.evidence.card import SCALES, Experiment, Scale, Verdict, card_of, has_card
from pomona.evidence.table import Table, Trial, trial_from_dict
from pomona.ground.errors import DamagedArtefact
from pomona.ground.files import content_hash, read_json, write_json

RESULTS = Path(__file__).parent / "results"
"""The results that come with pomona."""

State = Literal["fresh", "stale", "edited"]
"""`stale`: the code it measured has changed since. `edited`: the file is not what the run wrote."""


@dataclass(frozen=True)
class Result:
    """One run of one card.

    Attributes:
        slug, scale: what was run.
        claim, equal, rule: of the card as it was then.
        metrics: name, unit and direction of each.
        arms: role and stages of each arm.
        trials: every arm at every seed.
        verdict: by the rule.
        versions, machine: what it was run with, and on.
        modules: of the card, the method, and all methods that it was compared with.
        code: fingerprint of these.
        day: on which it ended.
        seal: hash of everything else; empty until it is written.
    """

    slug: str
    scale: Scale
    claim: str
    equal: str
    rule: str
    metrics: tuple[Mapping[str, str], ...]
    arms: Mapping[str, Mapping[str, Any]]
    trials: tuple[Trial, ...]
    verdict: Verdict
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    modules: tuple[str, ...]
    code: str
    day: str
    seal: str = ""

    @property
    def table(self) -> Table:
        return Table(self.trials)

    @cached_property
    def state(self) -> State:
        """Whether the file and the code are still those of the run."""
        if self.seal != seal_of(self):
            return "edited"
        return "fresh" if self.code == fingerprint(self.modules) and self.arms == self._arms_now() else "stale"

    def _arms_now(self) -> Mapping[str, Any]:
        """The arms of the card as it is; what they start from is not in the card's own file."""
        return arms_of(card_of(self.slug), self.scale) if has_card(self.slug) else {}


def seal_of(result: Result) -> str:
    """Hash of a result's content."""
    return content_hash(json.loads(json.dumps(asdict(replace(result, seal="")))))


def sealed(result: Result) -> Result:
    return replace(result, seal=seal_of(result))


def file_of(slug: str, scale: Scale, folder: Path = RESULTS) -> Path:
    return folder / f"{slug}.{scale}.json"


def write_result(result: Result, folder: Path = RESULTS) -> Path:
    """Write a result with its seal. Returns the file."""
    file = file_of(result.slug, result.scale, folder)
    write_json(file, asdict(sealed(result)))
    return file


def read_result(file: Path) -> Result:
    """A result from its file. Raises `DamagedArtefact` when the file is not one."""
    try:
        values = dict(read_json(file))
        values["trials"] = tuple(trial_from_dict(trial) for trial in values["trials"])
        values["metrics"] = tuple(values["metrics"])
        values["modules"] = tuple(values["modules"])
        values["verdict"] = Verdict(**values["verdict"])
        return Result(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedArtefact(f"{file} is not a result", found=str(error), do="remove it and run again") from error


def results_of(slug: str, folder: Path = RESULTS) -> list[Result]:
    """The results of a system, the largest scale last."""
    return [read_result(file) for scale in SCALES if (file := file_of(slug, scale, folder)).is_file()]


def described(card: Experiment, scale: Scale) -> dict[str, Any]:
    """What a result repeats of its card."""
    return {
        "slug": card.slug,
        "scale": scale,
        "claim": card.claim,
        "equal": card.equal,
        "rule": card.rule,
        "metrics": tuple(asdict(metric) for metric in card.metrics),
        "arms": arms_of(card, scale),
    }


def arms_of(card: Experiment, scale: Scale) -> dict[str, Any]:
    """The arms of a card as they are written: plain values."""
    plain: dict[str, Any] = json.loads(json.dumps({name: asdict(arm) for name, arm in card.arms(scale).items()}))
    return plain
