"""A linear head trained on each session in turn: what forgets, and so what others are compared with.

Source: sequential training, the lower bound of every study of continual learning; with all classes in one session it is
the linear probe, the upper bound of classifiers of frozen features.
Implements: features of length 1 of a frozen model; softmax regression over the classes so far, trained by AdamW on the
    texts of the session alone. Rows of new classes begin at zero; all rows train.
Deviations: none.
Use when: something to compare with is needed. Cost: one pass over each text, and the epochs over its features.
Relations: the same features as `nmc-baseline`, with a trained classifier in place of means.
Limits: models with one stack that read tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from pomona import anatomy
from pomona.continual.config import ContinualConfig
from pomona.continual.features import Reader
from pomona.continual.learner import Adapt, Learner, Session
from pomona.ground.errors import ConfigError
from pomona.tasks.stream import Encoded


class SequentialProbeConfig(ContinualConfig):
    """Train a linear head on the features of each session in turn."""

    method: Literal["sequential-probe"] = "sequential-probe"
    rate: PositiveFloat = 0.01
    """Learning rate of the head."""
    passes: PositiveInt = 5
    """Passes over the features of a session."""
    batch: PositiveInt = 16
    """Texts of one step."""

    def learner(self, model: PreTrainedModel, adapt: Adapt | None = None, *, seed: int = 0) -> SequentialProbe:
        """The order of the texts is drawn from `seed`."""
        self.check(anatomy.of(model))
        return SequentialProbe(model, self, seed)


class SequentialProbe(Learner):
    """A linear head that grows by the classes of each session."""

    def __init__(self, model: PreTrainedModel, config: SequentialProbeConfig, seed: int = 0) -> None:
        self.reader, self.config, self.seed = Reader([model], config.pool, unit=True), config, seed
        self.weight_KD, self.bias_K = torch.zeros(0, 0), torch.zeros(0)
        self._labels: list[str] = []
        self._sessions = 0

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self._labels)

    def learn(self, session: Session) -> None:
        new = [label for label in session.labels if label not in self._labels]
        features, truth = [], []
        for label, texts in session.texts.items():
            found = self.reader(texts).float()
            features.append(found)
            truth += [([*self._labels, *new]).index(label)] * len(found)
        known = torch.cat(features)
        old = self.weight_KD if self._labels else torch.zeros(0, known.shape[1])
        weight = torch.cat([old, torch.zeros(len(new), known.shape[1])])
        bias = torch.cat([self.bias_K, torch.zeros(len(new))])
        self._labels += new
        draws = torch.Generator().manual_seed(self.seed * 1_000_003 + self._sessions)
        self.weight_KD, self.bias_K = sequential_probe(known, torch.tensor(truth), weight, bias, self.config, draws)
        self._sessions += 1

    def predict(self, texts: Encoded) -> list[str]:
        if not self._labels:
            raise ConfigError("no class has been seen", do="learn a session first")
        scores = F.linear(self.reader.again(texts).float(), self.weight_KD, self.bias_K)
        return [self._labels[place] for place in scores.argmax(-1).tolist()]

    def state(self) -> Mapping[str, Tensor]:
        return {"weight": self.weight_KD, "bias": self.bias_K}

    def save(self, folder: Path) -> None:
        save_file(dict(self.state()), folder / "probe.safetensors", metadata={"labels": "\n".join(self._labels)})


def sequential_probe(
    features_ND: Tensor,
    truth_N: Tensor,
    weight_KD: Tensor,
    bias_K: Tensor,
    config: SequentialProbeConfig,
    draws: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Weight and bias after training on some features: float32, cross-entropy, mean over each batch.

    Args:
        truth_N: rows of the weight, int64. draws: of the order of the texts.
    """
    weight, bias = weight_KD.clone().requires_grad_(), bias_K.clone().requires_grad_()
    optimizer = torch.optim.AdamW([weight, bias], lr=config.rate, weight_decay=0.0)
    for _ in range(config.passes):
        order = torch.randperm(len(features_ND), generator=draws)
        for start in range(0, len(order), config.batch):
            some = order[start : start + config.batch]
            optimizer.zero_grad()
            loss = F.cross_entropy(F.linear(features_ND[some], weight, bias), truth_N[some])
            torch.autograd.backward(loss)
            optimizer.step()
    return weight.detach(), bias.detach()
