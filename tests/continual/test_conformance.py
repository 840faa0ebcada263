"""What everything that learns in sessions keeps to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pomona import anatomy
from pomona.continual import Learner, course
from pomona.ground.errors import ConfigError, UnsupportedModel
from tests.conformance import methods_of, slug_of
from tests.continual.conftest import LABELS, moved, orchard, sessions
from tests.tiny import bert, gpt2, llama, t5

METHODS: list[Any] = methods_of("continual")
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)
every_family = pytest.mark.parametrize("make", [llama, gpt2, bert], ids=["llama", "gpt2", "bert"])


def fresh(method: Any, model: Any) -> Learner:
    return method().learner(model, moved(model), seed=1)  # type: ignore[no-any-return]


@every_method
@every_family
def test_a_course(method: Any, make: Any) -> None:
    """Catches classes answered before they are seen, a model that is changed, and a mode that is left behind."""
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner, asked = fresh(method, model), orchard(shift=100)
    for place, session in enumerate(sessions((LABELS[3:], LABELS[:2], LABELS[2:3]))):
        learner.learn(session)
        seen = [*LABELS[3:], *LABELS[:2], *LABELS[2:3]][: 2 * place + 2]
        assert set(learner.labels) == set(seen)
        assert {answer for texts in asked.values() for answer in learner.predict(texts)} <= set(seen)
    after = model.state_dict()
    assert model.training and all(torch.equal(after[name], before[name]) for name in before)


@every_method
def test_it_learns(method: Any) -> None:
    """Catches features or labels in another order than the texts: classes that differ plainly are told apart."""
    found = course(fresh(method, llama()), sessions((LABELS,)), orchard(shift=100))
    assert found.last > 0.8 and found.average == found.last and found.forgetting == 0.0


@every_method
def test_the_same_again(method: Any) -> None:
    """Catches state that is drawn from outside the seed."""
    model, order = bert(), (LABELS[:3], LABELS[3:])
    states = []
    for _ in range(2):
        learner = fresh(method, model)
        torch.rand(3)
        for session in sessions(order):
            learner.learn(session)
        states.append(learner.state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@every_method
def test_what_is_saved(method: Any, tmp_path: Path) -> None:
    """Catches state that is not written, and state that grows with the texts."""
    learner = fresh(method, llama())
    for session in sessions((LABELS,)):
        learner.learn(session)
    learner.save(tmp_path)
    (file,) = tmp_path.iterdir()
    saved = load_file(file)
    assert saved.keys() == learner.state().keys()
    assert all(torch.equal(saved[name], value) for name, value in learner.state().items())
    assert all(len(value) == len(LABELS) for value in saved.values())


@every_method
def test_refusals(method: Any) -> None:
    """Catches answers of a learner that has seen nothing, and models whose features cannot be read."""
    with pytest.raises(ConfigError, match="no class has been seen"):
        fresh(method, llama()).predict(orchard()["fig"])
    with pytest.raises(UnsupportedModel, match="an encoder or a decoder"):
        method().check(anatomy.of(t5()))
