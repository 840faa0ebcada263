"""Attention kernels behind transformers' AttentionInterface, chosen per model by `use_attention`.

"explicit" is the textbook computation (scores, softmax, weighted values) as three batched products. On a processor, at
the sequence lengths of small-model training, it is faster than the fused kernel, which cannot use bf16 there.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pomona.ground.errors import ConfigError, UnsupportedModel, did_you_mean

Kernel = Literal["explicit", "model"]

EXPLICIT = "pomona_explicit"
LONGEST_EXPLICIT = 1024
"""Tokens above which the fused kernel takes over: scores of a longer sequence would not stay in the cache."""


class use_attention:
    """Choose the attention kernel of a model, at once; as a context manager it restores the former one at the end.

    Args:
        model: a transformers model.
        kernel: "explicit", or "model" for the kernel that transformers would choose by itself.
    Raises:
        UnsupportedModel: the model's attention does not go through transformers' AttentionInterface.
    """

    def __init__(self, model: Any, kernel: Kernel = "explicit") -> None:
        names = {"explicit": EXPLICIT, "model": "sdpa" if model._supports_sdpa else "eager"}
        if kernel not in names:
            raise ConfigError(f"there is no attention kernel {kernel!r}", do=did_you_mean(kernel, names))
        self.model = model
        self.before: str = model.config._attn_implementation
        model.set_attn_implementation(names[kernel])
        if model.config._attn_implementation != names[kernel]:
            raise UnsupportedModel(
                f"the attention kernel of {type(model).__name__} cannot be chosen",
                needs="attention that goes through transformers' AttentionInterface",
                found=f"it stays {model.config._attn_implementation!r}",
                do='keep the kernel "model"',
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.model.set_attn_implementation(self.before)


def explicit_attention(
    query_BNTH: Tensor,
    key_BNSH: Tensor,
    value_BNSH: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scaling * Q K^T + mask) V as batched products; (B, N, T, H), differentiable.

    Args:
        mask: None, or additive in the dtype of the scores and broadcastable to (B, N, T, S).
        dropout: probability with which an attention probability is dropped.
    """
    batch, heads, queries, _ = query_BNTH.shape
    keys = key_BNSH.shape[2]
    query = query_BNTH.reshape(batch * heads, queries, -1)
    key = key_BNSH.reshape(batch * heads, keys, -1)
    value = value_BNSH.reshape(batch * heads, keys, -1)
    if mask is None:
        scores = torch.bmm(query * scaling, key.transpose(1, 2))
    elif mask.dim() == 2:
        scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scaling)
    else:
        scores = torch.bmm(query * scaling, key.transpose(1, 2)).view(batch, heads, queries, keys) + mask
        scores = scores.view(batch * heads, queries, keys)
    # The processor's softmax computes in float32 and rounds once, whatever the dtype of the scores.
    probabilities = torch.softmax(scores, dim=-1)
    if dropout > 0.0:
        probabilities = nn.functional.dropout(probabilities, p=dropout)
    return torch.bmm(probabilities, value).view(batch, heads, queries, -1)


def causal_mask(queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(T, S) additive mask, 0 where a query sees a key and the lowest number elsewhere; the last query sees all."""
    lowest = torch.finfo(dtype).min
    return torch.full((queries, keys), lowest, dtype=dtype, device=device).triu(keys - queries + 1)


def _forward(
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
    """The kernel in the form that transformers calls: (B, N, T, H) in, (B, T, N, H) out."""
    queries, keys = query.shape[2], key.shape[2]
    if query.device.type != "cpu" or queries > LONGEST_EXPLICIT or keys > LONGEST_EXPLICIT or "softcap" in kwargs:
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
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)
        value = value[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    if attention_mask is None:
        mask = causal_mask(queries, keys, query.dtype, query.device) if causal and queries > 1 else None
    elif attention_mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill_(~attention_mask, lowest)
    else:
        mask = attention_mask.to(query.dtype)
    if position_bias is not None:
        bias = position_bias.to(query.dtype)
        mask = bias if mask is None else bias + mask
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = explicit_attention(query, key, value, mask, scaling=scale, dropout=dropout if module.training else 0.0)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(EXPLICIT, _forward)
AttentionMaskInterface.register(EXPLICIT, sdpa_mask)
