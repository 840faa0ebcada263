"""Nearest class means: equal to loops, and to nothing but the texts of each class."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pomona.continual import NmcBaselineConfig
from pomona.continual.features import features_of
from pomona.continual.nmc_baseline import nmc_baseline
from tests.continual.conftest import LABELS, orchard, sessions
from tests.tiny import bert, llama


@pytest.mark.parametrize("make", [llama, bert], ids=["llama", "bert"])
def test_slow_reference(make: Any) -> None:
    """Catches means of length 1, features of another length, and a comparison by angle: plain loops in float64."""
    model, found, asked = make(), orchard(), orchard(shift=100)
    learner = nmc_baseline(model)
    for session in sessions((LABELS[:2], LABELS[2:])):
        learner.learn(session)
    means = {}
    for label, texts in found.items():
        rows = [row / row.square().sum().sqrt() for row in features_of(model, texts)]
        means[label] = sum(rows[1:], rows[0]) / len(rows)
    torch.testing.assert_close(learner.prototypes.means, torch.stack([means[label] for label in sorted(LABELS)]))
    assert (learner.prototypes.means.norm(dim=-1) < 1 - 1e-6).all()
    for texts in asked.values():
        rows = [row / row.square().sum().sqrt() for row in features_of(model, texts)]
        slow = [min(sorted(means), key=lambda label: float((row - means[label]).square().sum())) for row in rows]
        assert learner.predict(texts) == slow


def test_sessions_change_nothing() -> None:
    """Catches texts that are read together with others: any order and division of the classes, to the last bit."""
    model, asked = llama(), orchard(shift=100)
    learners = [nmc_baseline(model) for _ in range(3)]
    orders = [(LABELS,), (LABELS[4:], LABELS[1:4], LABELS[:1]), tuple((label,) for label in LABELS[::-1])]
    for learner, order in zip(learners, orders, strict=True):
        for session in sessions(order):
            kept = learner.prototypes.means if learner.labels else None
            old = learner.labels
            learner.learn(session)
            if kept is not None:
                rows = [learner.labels.index(label) for label in old]
                assert torch.equal(learner.prototypes.means[rows], kept)
    first, *others = learners
    assert all(torch.equal(each.prototypes.means, first.prototypes.means) for each in others)
    assert all(each.predict(texts) == first.predict(texts) for each in others for texts in asked.values())


def test_pooling_reaches_the_features() -> None:
    """Catches a parameter that is not read."""
    model, states = bert(), []
    for pool in ("mean", "first"):
        learner = nmc_baseline(model, NmcBaselineConfig(pool=pool))
        learner.learn(sessions((LABELS,))[0])
        states.append(learner.prototypes.means)
    assert not torch.allclose(states[0], states[1])
