"""Several documents in one window: positions that start anew at each, attention that stays within each."""

from __future__ import annotations

import torch
from torch import Tensor

from pomona.anatomy import Anatomy
from pomona.ground.errors import ConfigError, UnsupportedModel


def positions_within(documents_BT: Tensor) -> Tensor:
    """(B, T) int64 place of each token in its document, counted from 0 at the start of the window and of a document.

    Example:
        >>> positions_within(torch.tensor([[0, 0, 1, 1, 1, 2]]))
        tensor([[0, 1, 0, 1, 2, 0]])
    """
    places = torch.arange(documents_BT.shape[1], device=documents_BT.device).expand_as(documents_BT)
    starts = starts_of(documents_BT)
    return places - torch.where(starts, places, 0).cummax(dim=1).values


def starts_of(documents_BT: Tensor) -> Tensor:
    """(B, T) bool, True at the first token of the window and of each document in it."""
    starts = torch.ones_like(documents_BT, dtype=torch.bool)
    starts[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return starts


def block_diagonal_mask(documents_BT: Tensor, body: Anatomy) -> Tensor:
    """(B, 1, T, T) mask by which each token sees its own document, in the form that the model's kernel takes."""
    seen = (documents_BT.unsqueeze(2) == documents_BT.unsqueeze(1)).unsqueeze(1)
    if kernel_of(body) != "eager":
        return seen
    dtype = body.dtype  # the textbook kernel adds the mask to the scores
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def kernel_of(body: Anatomy) -> str:
    """Name of the model's attention kernel."""
    return str(body.config._attn_implementation)


def require_document_masks(body: Anatomy, method: str) -> None:
    """Refuse a kernel under which documents of one window would see each other.

    transformers derives the mask from the positions for kernels that take one; the flash kernels take none and look
    at the positions for a batch of one sequence only.
    """
    kernel = kernel_of(body)
    if "flash" in kernel or "paged" in kernel:
        raise UnsupportedModel(
            f"{method} cannot keep documents apart with the attention kernel {kernel!r}",
            needs="a kernel that takes a mask",
            found=kernel,
            do='load the model with attn_implementation="sdpa", or set respect_documents to false',
        )


def require_length(body: Anatomy, length: int, method: str) -> None:
    """Refuse sequences longer than the model's positions."""
    most = body.max_positions
    if most is not None and length > most:
        raise ConfigError(
            f"{method}: sequences are longer than the model's positions",
            needs=f"at most {most} tokens",
            found=f"{length} tokens",
            do="shorten seq_length, or make the model with more positions",
        )
