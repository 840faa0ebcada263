"""Which tokens are hidden: a fixed number of each row's candidates, drawn at random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pomona.ground.errors import ConfigError


def mask_token_of(tokenizer: Any, method: str) -> int:
    """The id of the token that stands for a hidden one. Raises `ConfigError` where the vocabulary has none."""
    if getattr(tokenizer, "mask_token_id", None) is None:
        raise ConfigError(
            f"{method} needs a mask token",
            found=f"{type(tokenizer).__name__} without one",
            do="give it one (stage tokenize: `mask_token: <mask>`), or take a tokenizer that has one",
        )
    return int(tokenizer.mask_token_id)


def special_tokens(tokenizer: Any) -> Tensor:
    """(V,) bool: the tokens that stand for no text, which are neither hidden nor put in the place of others."""
    special = torch.zeros(len(tokenizer), dtype=torch.bool)
    special[[*tokenizer.all_special_ids]] = True
    return special


def share_of(candidates_BT: Tensor, share: float) -> Tensor:
    """(B,) int64: round(share * candidates) of each row, at least one."""
    return (candidates_BT.sum(1) * share).round().long().clamp_min(1)


def choose(
    candidates_BT: Tensor,
    wanted_B: Tensor,
    generator: torch.Generator | None,
    words_BT: Tensor | None = None,
) -> Tensor:
    """(B, T) bool: so many of each row's candidates, all choices being equally likely; all where there are fewer.

    Args:
        candidates_BT: bool, tokens that may be chosen.
        wanted_B: int64, how many in each row.
        words_BT: int64 number of each token's word in its row, or None to choose single tokens. Words are chosen
            whole until the number is reached, so the last one may exceed it.
    """
    keys = torch.rand(candidates_BT.shape, generator=generator)
    if words_BT is not None:
        keys = keys.gather(1, words_BT)  # one draw for all tokens of a word
    keys = keys.masked_fill(~candidates_BT, 2.0)
    rank = ranks(keys)
    if words_BT is not None:  # the rank of a word is that of its first token
        firsts = torch.full_like(rank, rank.shape[1]).scatter_reduce_(1, words_BT, rank, "amin")
        rank = firsts.gather(1, words_BT)
    return (rank < wanted_B.unsqueeze(1)) & candidates_BT


def ranks(keys_BT: Tensor) -> Tensor:
    """(B, T) int64 place of each key among those of its row, from 0 for the smallest; equal ones in their order.

    Example:
        >>> ranks(torch.tensor([[0.3, 0.1, 0.2]]))
        tensor([[2, 0, 1]])
    """
    order = keys_BT.argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1]).expand_as(order).contiguous()
    return torch.empty_like(order).scatter_(1, order, places)
