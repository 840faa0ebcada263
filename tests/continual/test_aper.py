"""APER: two models side by side from the first session on, and class means of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pomona.continual import AperConfig, Session
from pomona.continual.aper import aper
from pomona.continual.features import features_of
from pomona.ground.errors import ConfigError
from tests.continual.conftest import LABELS, copied, moved, orchard, sessions
from tests.tiny import bert, gpt2, llama

ALONE = AperConfig(adapted=False)
every_family = pytest.mark.parametrize("make", [llama, gpt2, bert], ids=["llama", "gpt2", "bert"])


@every_family
def test_slow_reference(make: Any) -> None:
    """Catches one of the models left out, the first classes in the old space alone, and features of length 1."""
    model, found = make(), orchard()
    learner = aper(model, moved(model))
    for session in sessions((LABELS[:2], LABELS[2:])):
        learner.learn(session)
    other = moved(model)(Session({}))
    means = []
    for label in sorted(LABELS):
        rows = [features_of(each, found[label]) for each in (model, other)]
        means.append(torch.cat([each.mean(0) for each in rows]))
    torch.testing.assert_close(learner.prototypes.means, torch.stack(means))
    for texts in orchard(shift=100).values():
        both = torch.cat([features_of(each, texts) for each in (model, other)], dim=-1)
        slow = [max(range(5), key=lambda place: float(F.cosine_similarity(row, means[place], dim=0))) for row in both]
        assert learner.predict(texts) == [sorted(LABELS)[place] for place in slow]


@every_family
def test_an_adaptation_that_learns_nothing(make: Any) -> None:
    """Catches anything else that differs from SimpleCIL: doubled features have the same angles."""
    model = make()
    learners = [aper(model, copied(model)), aper(model, config=ALONE)]
    for session in sessions((LABELS[:3], LABELS[3:])):
        for learner in learners:
            learner.learn(session)
    doubled, single = (learner.prototypes.means for learner in learners)
    assert torch.equal(doubled, torch.cat([single, single], dim=-1))
    assert all(learners[0].predict(texts) == learners[1].predict(texts) for texts in orchard(shift=100).values())


def test_it_adapts_once() -> None:
    """Catches adaptation to later sessions, and prototypes that move with it."""
    model, calls = llama(), []

    def adapt(session: Session) -> Any:
        calls.append(session.labels)
        return moved(model)(session)

    learner = aper(model, adapt)
    kept = None
    for session in sessions((LABELS[:2], LABELS[2:4], LABELS[4:])):
        learner.learn(session)
        first = learner.prototypes.means[: len(LABELS[:2])]
        assert kept is None or torch.equal(first, kept)
        kept = first
    assert calls == [LABELS[:2]] and learner.adapted() is not None


def test_order_and_scale_of_simplecil() -> None:
    """Catches prototypes that depend on the order of the classes, and answers that depend on the size of features."""
    model, asked = bert(), orchard(shift=100)
    one, other = aper(model, config=ALONE), aper(model, config=ALONE)
    for learner, order in ((one, (LABELS,)), (other, (LABELS[3:], LABELS[:3]))):
        for session in sessions(order):
            learner.learn(session)
    assert torch.equal(one.prototypes.means, other.prototypes.means)
    features = features_of(model, asked["fig"])
    assert one.prototypes.nearest(8 * features, "cosine") == one.predict(asked["fig"])


def test_refusals() -> None:
    """Catches an adaptation that nobody can carry out."""
    with pytest.raises(ConfigError, match="adapted: false"):
        aper(llama())
    assert AperConfig().adapts and not ALONE.adapts
