"""Verify a declaration by experiment: every probe on an enlarged random copy of a small model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pomona.anatomy import probes
from pomona.anatomy.body import Anatomy, towers
from pomona.anatomy.declaration import Shape
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes import Check
from pomona.anatomy.walk import BlockWalk
from pomona.ground.errors import PomonaError, UnsupportedModel

Probe = Callable[[Anatomy], Iterator[Check]]
IMPOSSIBLE = (PomonaError, RuntimeError, ValueError, IndexError, KeyError, TypeError)
"""What a probe may run into when the declaration is wrong, as products of matrices that do not fit."""
OWN_WEIGHTS = (probes.probe_forward, probes.probe_sizes)
"""What a model can stand with the weights that it has."""


@dataclass(frozen=True)
class Verification:
    """What the probes found out about one model."""

    model: str
    shape: str
    checks: tuple[Check, ...]

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    @property
    def passed(self) -> bool:
        return not self.failures

    def require(self) -> None:
        """Raise `UnsupportedModel` that lists the failed checks, if there are any."""
        if self.failures:
            raise UnsupportedModel(
                f"the shape {self.shape!r} does not describe {self.model}",
                needs=f"all {len(self.checks)} checks to pass",
                found="\n         ".join(str(check) for check in self.failures[:10]),
                do="correct the declaration",
            )

    def __str__(self) -> str:
        counts: dict[str, list[bool]] = {}
        for check in self.checks:
            counts.setdefault(check.probe, []).append(check.passed)
        lines = [f"{name}: {sum(passed)} of {len(passed)}" for name, passed in counts.items()]
        return "\n".join([f"{self.model} as {self.shape!r}", *lines, *(str(check) for check in self.failures)])


def verify(model: Any, shape: str | Shape | None = None) -> Verification:
    """Try whether the anatomy of `model` tells the truth, each tower's in turn; `model` is left as it is.

    Every probe works on a float64 copy with other weights, so the model should be small: what is proven is its class
    and its configuration's options. About a second for two blocks of width 32.

    Args:
        shape: a declaration or its name, for a model whose type is not in the registry.
    Raises:
        UnsupportedModel: the declaration does not even find the parts.
    """
    names = list(towers(model)) if shape is None else [shape]
    bodies = [probes.enlarged_copy(model, name) for name in names]
    checks = [check for body in bodies for check in experiments(body)]
    return Verification(type(model).__name__, " and ".join(body.shape.name for body in bodies), tuple(checks))


def verify_weights(body: Anatomy) -> Verification:
    """The experiments that a model can stand with its own weights, in their own precision; nothing is changed.

    They show that these weights fit the declaration, which `verify` proves on a tiny model of the same options.
    """
    return Verification(type(body.model).__name__, body.shape.name, tuple(experiments(body, OWN_WEIGHTS)))


def experiments(body: Anatomy, chosen: Sequence[Probe] = probes.PROBES) -> Iterator[Check]:
    """Every check, one after another. Most need an `enlarged_copy`; its weights are as before in the end."""
    for probe in chosen:
        try:
            yield from probe(body)
        except IMPOSSIBLE as error:
            yield Check(probe.__name__.removeprefix("probe_"), "the experiment", False, f"impossible: {error}")
    try:
        with BlockWalk(body, [example_inputs(body)]):
            found = "equal to the full forward"
    except UnsupportedModel as error:
        found = str(error.found)
    walked = found.startswith("equal")
    if "blockwise" not in body.capabilities:
        yield Check("walk", "refused where something lies between blocks", not walked, found)
    else:
        yield Check("walk", "all blocks, one after another", walked, found)
