"""The attention kernel of a model, chosen by `use_attention` through transformers' AttentionInterface."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pomona.anatomy.explicit import explicit_attention, hidden_keys
from pomona.ground.errors import ConfigError, UnsupportedModel, did_you_mean

Kernel = Literal["explicit", "model"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)

EXPLICIT = "pomona_explicit"
LONGEST_EXPLICIT = 2048
"""Tokens above which the fused kernel takes over: the kept probabilities grow with the square of the length."""
_SUSPENDED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Models whose attention is being modified, and the kernel that they go back to."""


class use_attention:
    """Choose the attention kernel of a model, at once; as a context manager it restores the former one at the end.

    While `modify_attention` is active on the model, the choice counts from its end on.

    Args:
        model: a transformers model.
        kernel: "explicit" (fast on a processor up to `LONGEST_EXPLICIT` tokens; elsewhere it calls the fused kernel),
            or "model" for the kernel that transformers would choose by itself. A model whose attention does more than
            the fused kernel can (soft caps, sinks) keeps its own in any case.
    Raises:
        UnsupportedModel: the model's attention does not go through transformers' AttentionInterface.
    """

    def __init__(self, model: Any, kernel: Kernel = "explicit") -> None:
        names = {"explicit": EXPLICIT, "model": "sdpa"} if model._supports_sdpa else dict.fromkeys(KERNELS, "eager")
        if kernel not in names:
            raise ConfigError(f"there is no attention kernel {kernel!r}", do=did_you_mean(kernel, names))
        self.model = model
        self.before = _SUSPENDED.get(model, model.config._attn_implementation)
        _choose(model, names[kernel])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _choose(self.model, self.before)


def suspend_kernel(model: Any, instead: str) -> None:
    """Compute attention with `instead` (a name in AttentionInterface) until `resume_kernel`."""
    before = model.config._attn_implementation
    _set(model, instead)
    _SUSPENDED[model] = before


def resume_kernel(model: Any) -> None:
    """Go back to the kernel that was chosen before, or since."""
    _set(model, _SUSPENDED.pop(model))


def _choose(model: Any, name: str) -> None:
    if model in _SUSPENDED:
        _SUSPENDED[model] = name
    else:
        _set(model, name)


def _set(model: Any, name: str) -> None:
    before = model.config._attn_implementation
    with _without_warnings():
        model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        with _without_warnings():
            model.set_attn_implementation(before)
        raise UnsupportedModel(
            f"the attention kernel of {type(model).__name__} cannot be chosen",
            needs="attention that goes through transformers' AttentionInterface",
            found=f"it stays {before!r}",
            do="choose a model whose attention does",
        )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """transformers warns where we raise."""
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask in the form that is added to scores: bool (True where seen) or float, in the dtype of `like`."""
    lowest = torch.finfo(like.dtype).min
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(~mask, lowest)
    return mask if mask.dtype == like.dtype else mask.to(like.dtype).clamp_min(lowest)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The kernel in the form that transformers calls: (B, N, T, H) and (B, K, S, H) in, (B, T, N, H) out."""
    queries, keys = query.shape[2], key.shape[2]
    if query.device.type != "cpu" or queries == 1 or max(queries, keys) > LONGEST_EXPLICIT:
        result: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            position_bias=position_bias,
            **kwargs,
        )
        return result
    if torch.is_autocast_enabled("cpu"):
        # As autocast does for the fused kernel; the backward pass runs outside of autocast.
        dtype, layout = torch.get_autocast_dtype("cpu"), torch.contiguous_format
        query, key, value = (x.to(dtype, memory_format=layout) for x in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)
        value = value[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)
    causal = bool(is_causal if is_causal is not None else getattr(module, "is_causal", True)) and attention_mask is None
    if causal and keys > queries:
        # A static cache before its first token: only the first keys are filled, as the fused kernel has it.
        key, value, keys = key[:, :, :queries], value[:, :, :queries], queries
    mask = None if attention_mask is None else additive(attention_mask, query)
    if mask is not None and mask.shape[-1] > keys:
        mask = mask[..., :keys]
    if position_bias is not None:
        bias = position_bias[..., :keys].to(query.dtype)
        if causal:
            mask, causal = hidden_keys(queries, keys, 0, query), False
        mask = bias if mask is None else bias + mask
    out = explicit_attention(
        query,
        key,
        value,
        mask,
        causal=causal,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        dropout=dropout if module.training else 0.0,
    )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(EXPLICIT, attend)
AttentionMaskInterface.register(EXPLICIT, sdpa_mask)
