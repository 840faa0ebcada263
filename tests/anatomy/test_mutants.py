"""Whatever is changed in a declaration, a probe notices, or it is an invariance that is listed here with its reason."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest

from pomona.anatomy import Anatomy
from pomona.anatomy.declaration import Shape
from pomona.anatomy.probes import enlarged_copy
from pomona.anatomy.registry import known_shapes, shapes_for
from pomona.anatomy.tiny import TINY, tiny_model
from pomona.anatomy.verify import experiments
from pomona.ground.errors import UnsupportedModel

from .mutants import mutants, signature

INVARIANCES = {
    "fields.max_positions dropped": "where positions are computed, only training decides how long a sequence may be",
}
"""Changes that no experiment can notice, and why."""
BOTH = {"mpnet": {"positions = relative_bias"}}
"""Models that know positions in two ways: either may be called theirs."""


@pytest.mark.parametrize("name", known_shapes())
def test_every_change_is_noticed(name: str) -> None:
    """Breaks when a probe becomes vacuous, or an annotation is made that nothing proves."""
    shape = known_shapes()[name]
    rows = [row for row, tiny in TINY.items() if tiny.model_type in shape.model_types]
    specimens = [Specimen(row, shape) for row in rows if shape in shapes_for(tiny_model(row))]
    unnoticed, idle = set(), set()
    for change, wrong, stated in mutants(shape):
        verdicts = verdicts_on(specimens, wrong)
        if "unnoticed" in verdicts and "noticed" not in verdicts:
            unnoticed.add(change)
        elif "noticed" not in verdicts and stated:
            idle.add(change)
    computed = {change for change in INVARIANCES if shape.positions != "learned"} | BOTH.get(name, set())
    assert unnoticed - computed == set(), "no probe notices these changes of the declaration"
    assert idle == set(), "no tiny model has what these annotations describe"


class Specimen:
    """A tiny model with what the right declaration says about it."""

    def __init__(self, row: str, shape: Shape) -> None:
        self.body = enlarged_copy(tiny_model(row), shape)
        self.state = copy.deepcopy(self.body.model.state_dict())
        self.truth = signature(self.body)

    def judge(self, wrong: Shape) -> str:
        """Whether a wrong declaration is "noticed" or "unnoticed", or "the same" for this model."""
        try:
            lying = Anatomy(self.body.model, wrong)
        except (UnsupportedModel, ValueError, ZeroDivisionError, TypeError):
            return "noticed"
        if signature(lying) == self.truth:
            return "the same"
        try:
            failed = any(not check.passed for check in experiments(lying))
        except AttributeError:  # an edit by the wrong declaration took away a module that the model calls
            failed = True
        self.body.model.load_state_dict(self.state)
        return "noticed" if failed else "unnoticed"


def verdicts_on(specimens: Sequence[Specimen], wrong: Shape) -> list[str]:
    """The verdicts up to the first model that notices."""
    found: list[Any] = []
    for specimen in specimens:
        found.append(specimen.judge(wrong))
        if found[-1] == "noticed":
            break
    return found
