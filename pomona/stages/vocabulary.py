"""Embeddings for tokens that a model does not know yet: a mask, modes, whatever a tokenizer was given later."""

from __future__ import annotations

from typing import Any

import torch

from pomona import anatomy
from pomona.anatomy import Anatomy


def widen_vocabulary_(model: Any, size: int) -> bool:
    """Give a model embeddings, and rows of its head, for all of `size` tokens; whether there were too few.

    A new row is the mean of the others, so that a new token starts as nothing in particular and is about as likely as
    others are on average. The configuration follows. A vocabulary that is large enough stays as it is.

    Args:
        model: a transformers model, or its anatomy, which is then brought up to date; on the meta device too.
        size: one more than the largest id.

    Raises:
        UnsupportedModel: the model has no vocabulary, or one that cannot be changed.
    """
    body = model if isinstance(model, Anatomy) else anatomy.of(model)
    body.require("token_embedding", method="a larger vocabulary")
    assert body.vocabulary is not None
    missing = size - body.vocabulary.size
    if missing <= 0:
        return False
    with body.edit() as edit:
        edit.expand(body.vocabulary, [*range(body.vocabulary.size), *([0] * missing)])
        for weight, axis in body.members(body.vocabulary):
            values = weight.read()
            mean = values.mean(axis, keepdim=True)
            sizes = [missing if dim == axis else -1 for dim in range(values.dim())]
            edit.write(weight, torch.cat([values, mean.expand(*sizes)], axis))
    return True
