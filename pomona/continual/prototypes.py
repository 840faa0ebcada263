"""Class means that grow: a sum and a count for each class, so that nothing depends on order, and all can be undone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pomona.ground.errors import ConfigError, DataError

Metric = Literal["euclidean", "cosine"]


class Prototypes:
    """The mean of the features of each class, from float64 sums.

    Every class has its own row: what is added to one leaves the others bit for bit, and the rows are in the order of
    their labels, whatever came first.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Tensor, int]] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(sorted(self._kept))

    @property
    def counts(self) -> Tensor:
        """(K,) int64, how many features each class has."""
        return torch.tensor([self._kept[label][1] for label in self.labels], dtype=torch.int64)

    @property
    def sums(self) -> Tensor:
        """(K, D) float64."""
        if not self._kept:
            raise ConfigError("no class has been seen", do="learn a session first")
        return torch.stack([self._kept[label][0] for label in self.labels])

    @property
    def means(self) -> Tensor:
        """(K, D) float64: the prototypes, in the order of `labels`."""
        return self.sums / self.counts[:, None]

    def add_(self, label: str, features_ND: Tensor) -> None:
        """Count the features of some texts (any dtype) in.

        Raises:
            DataError: there are none, they are of another width, or one is not finite.
        """
        self._require(label, features_ND)
        total, count = self._kept.get(label, (torch.zeros(features_ND.shape[1], dtype=torch.float64), 0))
        self._kept[label] = (total + features_ND.double().sum(0), count + len(features_ND))

    def remove_(self, label: str, features_ND: Tensor | None = None) -> None:
        """Count features out that were counted in before, or forget a class.

        Raises:
            DataError: the class is not there, or has fewer features.
        """
        if label not in self._kept:
            raise DataError(f"there is no class {label!r}", found=", ".join(self.labels[:5]) or "none")
        total, count = self._kept[label]
        if features_ND is None or len(features_ND) == count:
            del self._kept[label]
            return
        self._require(label, features_ND)
        if len(features_ND) > count:
            raise DataError(f"{label!r} has {count} features", needs=f"at most {count} to take away")
        self._kept[label] = (total - features_ND.double().sum(0), count - len(features_ND))

    def merged(self, other: Prototypes) -> Prototypes:
        """The prototypes of everything that either has seen."""
        both = Prototypes()
        both._kept = dict(self._kept)
        for label, (total, count) in other._kept.items():
            if label in both._kept:
                mine, number = both._kept[label]
                both._kept[label] = (mine + total, number + count)
            else:
                both._kept[label] = (total, count)
        return both

    def nearest(self, features_ND: Tensor, metric: Metric) -> list[str]:
        """The class of the nearest mean, by Euclidean distance or by angle; of equal ones the first label."""
        means, features, labels = self.means, features_ND.double(), self.labels
        if metric == "cosine":
            closeness = F.normalize(features, dim=-1) @ F.normalize(means, dim=-1).T
        else:  # |f - m|^2 without |f|^2, which is the same for all classes
            closeness = 2 * features @ means.T - means.square().sum(-1)
        return [labels[place] for place in closeness.argmax(-1).tolist()]

    def save(self, file: Path) -> None:
        """Write a safetensors file with `sums`, `counts` and the labels."""
        save_file({"sums": self.sums, "counts": self.counts}, file, metadata={"labels": json.dumps(self.labels)})

    @classmethod
    def load(cls, file: Path) -> Prototypes:
        """Read what `save` wrote."""
        found = cls()
        with safe_open(file, framework="pt") as opened:
            labels = json.loads(opened.metadata()["labels"])
            sums, counts = opened.get_tensor("sums"), opened.get_tensor("counts").tolist()
        found._kept = {label: (sums[place].clone(), counts[place]) for place, label in enumerate(labels)}
        return found

    def _require(self, label: str, features_ND: Tensor) -> None:
        if features_ND.ndim != 2 or not len(features_ND):
            raise DataError(
                f"{label!r} has no text", needs="at least one", do="leave the class out, or give texts of it"
            )
        width = next((len(total) for total, _ in self._kept.values()), features_ND.shape[1])
        if features_ND.shape[1] != width:
            raise DataError("features differ in width", needs=str(width), found=str(features_ND.shape[1]))
        if not torch.isfinite(features_ND).all():
            raise DataError(f"a feature of {label!r} is not finite", do="load the model in float32")
