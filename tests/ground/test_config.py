"""Configurations refuse what they do not know and report everything at once."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError, model_validator

from pomona.ground.config import Config
from pomona.ground.errors import ConfigError, PomonaError, Problem, did_you_mean, raise_problems


class Branch(Config):
    length: int = Field(default=1, ge=1)
    """In metres."""


class Tree(Config):
    height: float = 1.0
    """In metres."""
    branch: Branch = Branch()
    """The longest."""

    @model_validator(mode="after")
    def _in_proportion(self) -> Tree:
        if self.branch.length > self.height:
            raise ValueError("the branch is longer than the tree")
        return self


def test_every_problem_with_its_place_and_the_nearest_name() -> None:
    """Catches stopping at the first problem, a path that is lost, and suggestions from another level."""
    with pytest.raises(ConfigError) as caught:
        Tree.parse({"heigth": 2, "height": "tall", "branch": {"lenght": 1, "length": 0}}, "tree")
    message = str(caught.value)
    assert "4 problems" in message
    assert "tree.heigth: unknown key 'heigth'\n      did you mean 'height'?" in message
    assert "tree.branch.lenght: unknown key 'lenght'\n      did you mean 'length'?" in message
    assert "tree.height: " in message and "(got 'tall')" in message
    assert "tree.branch.length: " in message and "(got 0)" in message


def test_values_of_their_own_words() -> None:
    """Catches pydantic's prefix in front of a sentence that was written for the reader."""
    with pytest.raises(ConfigError, match="tree: the branch is longer than the tree"):
        Tree.parse({"branch": {"length": 5}}, "tree")
    with pytest.raises(ConfigError, match="finite"):
        Tree.parse({"height": float("nan")})


def test_frozen() -> None:
    """Catches a configuration that changes after its hash was taken."""
    with pytest.raises(ValidationError, match="frozen"):
        Tree().height = 2.0  # type: ignore[misc]


def test_fields_describe_themselves() -> None:
    """Catches descriptions that are lost on the way to commands and tables."""
    assert Tree.model_fields["height"].description == "In metres."


def test_errors_say_what_they_know_in_one_order() -> None:
    """Catches a fact that is left out, and empty lines for what nobody knows."""
    error = PomonaError("it fell", where="garden", do="plant it again")
    assert str(error) == "it fell\n  where: garden\n  do:    plant it again"
    raise_problems([], "nothing")
    with pytest.raises(ConfigError, match=r"the plan: 1 problem\n  - a: is wrong\n      mend it"):
        raise_problems([Problem("a", "is wrong", "mend it")], "the plan")


def test_near_names() -> None:
    """Catches a suggestion of something unrelated, and silence where the list would help."""
    assert did_you_mean("konda", ["conda", "muon", "adamw"]) == "did you mean 'conda'?"
    assert did_you_mean("xyz", ["muon", "conda"]) == "known: conda, muon"
