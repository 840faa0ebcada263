"""A card: what a published system claims and how the claim is put to the test, written before the test is run.

A card is a file `pomona/evidence/cards/<slug>.py` with one name, `CARD`. Its arms are recipes: whatever a user can
write in YAML can be an arm, and what two arms have in common is made once, because stages are content-addressed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

from pomona.catalog.listing import find, normal, source_file
from pomona.ground.errors import ConfigError

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.evidence.trials import Outcome

Scale = Literal["tiny", "small", "gpu"]
SCALES: tuple[Scale, ...] = get_args(Scale)
"""`tiny`: minutes on two cores. `small`: hours there. `gpu`: an hour on one large accelerator."""

Status = Literal["reproduced", "partly", "not reproduced"]

Role = Literal["method", "baseline", "reference"]

Stages = Sequence[Any]
"""Stages as a recipe lists them."""

CARDS = "pomona.evidence.cards"


@dataclass(frozen=True)
class Metric:
    """A number that every arm is measured by.

    Attributes:
        name: one or two words. unit: what it is counted in.
        better: the direction of an improvement.
    """

    name: str
    unit: str
    better: Literal["lower", "higher"] = "lower"


@dataclass(frozen=True)
class Arm:
    """One side of the comparison.

    Attributes:
        stages: the whole recipe.
        role: `method`: what is claimed to be better; `baseline`: what it is compared with, tuned as well as the
            method; `reference`: shown beside them, not judged.
    """

    stages: Stages
    role: Role = "method"


@dataclass(frozen=True)
class Verdict:
    """What came out, and the numbers that it rests on in one sentence."""

    status: Status
    because: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is said about an experiment on one claim before it is run.

    Attributes:
        slug: of the system in the catalog.
        claim: one sentence.
        equal: what is the same in all arms (tokens, FLOPs, bits, tuning).
        rule: which outcome leads to which verdict, in words; `judge` is the same in code.
        metrics: what is measured, the decisive one first.
        arms: what is compared at a scale, by name.
        judge: the verdict on the finished table.
        seeds: how many are run unless asked otherwise.
        prepare: writes what the arms read and no stage makes, before they run; asking for `arms` writes nothing.
    """

    slug: str
    claim: str
    equal: str
    rule: str
    metrics: tuple[Metric, ...]
    arms: Callable[[Scale], Mapping[str, Arm]]
    judge: Callable[[Table], Verdict]
    seeds: int = 3
    prepare: Callable[[Scale], None] = lambda scale: None

    def metric(self, name: str) -> Metric:
        """The metric of that name."""
        return next(metric for metric in self.metrics if metric.name == name)


@dataclass(frozen=True, kw_only=True)
class Card(Experiment):
    """An experiment whose arms are recipes.

    Attributes:
        measure: the metrics of one arm at one seed, from everything that its recipe made, by label. Cards whose arms
            differ in how they are measured find `arm` and `seed` there, too.
    """

    measure: Callable[[Outcome], Mapping[str, float]]


def module_of(slug: str) -> str:
    """The module of a system's card, whether it is there or not."""
    return f"{CARDS}.{normal(slug).replace('-', '_')}"


def has_card(slug: str) -> bool:
    """Whether a card has been written. Imports nothing."""
    return source_file(module_of(slug)) is not None


def card_of(slug: str) -> Experiment:
    """The card of a system. Raises `ConfigError` when the catalog does not know it, or it has none."""
    row = find(slug)
    if not has_card(row.slug):
        raise ConfigError(
            f"{row.slug} has no evidence card",
            needs=f"CARD in {module_of(row.slug)}",
            do="`pomona evidence status` lists the systems that have one",
        )
    card: Experiment = import_module(module_of(row.slug)).CARD
    return card
