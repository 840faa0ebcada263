"""The head that is trained in sequence: gradients by hand, and forgetting, which the means do not know."""

from __future__ import annotations

import torch

from pomona.continual import SequentialProbeConfig, course
from pomona.continual.nmc_baseline import nmc_baseline
from pomona.continual.sequential_probe import SequentialProbe, sequential_probe
from tests.continual.conftest import LABELS, orchard, sessions
from tests.tiny import llama

EAGER = SequentialProbeConfig(rate=0.1, passes=30)


def test_first_step_by_hand() -> None:
    """Catches a turned sign: AdamW's first step is the rate in the direction against the gradient."""
    features, truth = torch.tensor([[1.0, -2.0]]), torch.tensor([1])
    config = SequentialProbeConfig(rate=0.5, passes=1, batch=1)
    weight, bias = sequential_probe(
        features, truth, torch.zeros(2, 2), torch.zeros(2), config, torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(weight, torch.tensor([[-0.5, 0.5], [0.5, -0.5]]))
    torch.testing.assert_close(bias, torch.tensor([-0.5, 0.5]))


def test_it_forgets() -> None:
    """Catches earlier texts that are read again: in sequence old classes are lost, all at once none is."""
    model, asked = llama(), orchard(shift=100)
    order = tuple((label,) for label in LABELS)
    lost, means = (
        course(learner, sessions(order), asked) for learner in (SequentialProbe(model, EAGER), nmc_baseline(model))
    )
    assert lost.last < 0.8 < means.last and lost.forgetting > max(0.1, means.forgetting)
    assert course(SequentialProbe(model, EAGER), sessions((LABELS,)), asked).last > 0.8


def test_rows_grow() -> None:
    """Catches rows of earlier classes that are begun anew: a rate of almost nothing leaves them."""
    learner = SequentialProbe(llama(), SequentialProbeConfig(rate=1e-12, passes=1))
    first, second = sessions((LABELS[:2], LABELS[2:]))
    learner.learn(first)
    learner.weight_KD += 1.0
    learner.learn(second)
    torch.testing.assert_close(learner.weight_KD[:2], torch.ones_like(learner.weight_KD[:2]))
    assert learner.weight_KD[2:].abs().max() < 1e-9 and learner.labels == LABELS
