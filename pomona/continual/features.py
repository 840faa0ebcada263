"""What a frozen model makes of texts: the state after its last norm, one vector for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pomona import anatomy
from pomona.tasks.stream import Encoded

Pool = Literal["mean", "first", "last"]
AT_ONCE = 64


class Reader:
    """Features of some models, side by side.

    Args:
        models: none of them changes from the first text on.
        pool: see `features_of`.
        unit: features are brought to length 1.
    """

    def __init__(self, models: Sequence[Any], pool: Pool = "mean", *, unit: bool = False) -> None:
        self.models, self.pool, self.unit = list(models), pool, unit
        self._read: WeakKeyDictionary[Encoded, Tensor] = WeakKeyDictionary()

    def __call__(self, texts: Encoded) -> Tensor:
        """(N, D of all models) float64."""
        found = torch.cat([features_of(model, texts, self.pool) for model in self.models], dim=-1)
        return F.normalize(found, dim=-1) if self.unit else found

    def again(self, texts: Encoded) -> Tensor:
        """The same of texts that are asked about after every session: read once, and kept as long as they are."""
        if texts not in self._read:
            self._read[texts] = self(texts)
        return self._read[texts]


@torch.no_grad()
def features_of(model: Any, texts: Encoded, pool: Pool = "mean") -> Tensor:
    """(N, D) float64, in the order of the texts. Neither weights nor mode of the model change.

    Texts are read in batches of their own alone, by length, so that their features are a function of these texts to
    the last bit, whatever else is read before or after.

    Args:
        pool: `mean` over a text's own tokens, or the state of the `first` or `last` of them.
    """
    body = anatomy.of(model)
    order = np.argsort([len(row) for row in texts.rows], kind="stable")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    found: list[Tensor] = []
    try:
        for first in range(0, len(order), AT_ONCE):
            batch = texts.batch(order[first : first + AT_ONCE])
            ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
            hidden = body.hidden(input_ids=ids, attention_mask=mask)
            found.append(pooled(hidden.double(), mask, pool).cpu())
    finally:
        model.train(was_training)
    if not found:
        return torch.zeros(0, body.hidden_size, dtype=torch.float64)
    return torch.cat(found)[torch.from_numpy(np.argsort(order, kind="stable"))]


def pooled(hidden_BTD: Tensor, mask_BT: Tensor, pool: Pool) -> Tensor:
    """(B, D): one state for each row, of the positions whose mask is 1, which come first."""
    if pool == "first":
        return hidden_BTD[:, 0]
    lengths_B = mask_BT.sum(-1)
    if pool == "last":
        return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), lengths_B - 1]
    return torch.einsum("btd,bt->bd", hidden_BTD, mask_BT.to(hidden_BTD.dtype)) / lengths_B[:, None]
