"""Decode latent attention without making keys and values of what is cached.

A model with latent attention keeps, of each token and block, the latent c (r numbers) and the rotated key s that all
heads share. With W_k and W_v the maps that make a head's key and value of a latent, q.(W_k c) = (W_k^T q).c and
sum_t p_t W_v c_t = W_v (sum_t p_t c_t): queries are taken to the latents, and only their weighted sum is taken back. A
step over T cached tokens then costs N (2 r + d_rope) T multiplications instead of the r N (d_nope + d_v) T with which
transformers makes all keys and values again.

Source: DeepSeek-AI, "DeepSeek-V2", arXiv:2405.04434, Sec. 2.1.2 (matrices absorbed into queries and outputs).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from pomona import anatomy
from pomona.anatomy import Anatomy, Attention
from pomona.anatomy.attention import attend
from pomona.ground.errors import ConfigError

ABSORBED = "pomona_absorbed"
_ATTENTIONS: WeakKeyDictionary[nn.Module, Attention] = WeakKeyDictionary()
"""The parts of the modules that compute from latents now."""


@contextmanager
def absorbed(model: Any) -> Iterator[None]:
    """Within the block, a model with latent attention attends to the latents themselves.

    The model keeps its forward, its cache (transformers' own, which holds latents already) and `generate`. A cache that
    was filled outside of the block goes on here: a long prompt is cheaper there, with keys and values made once.

    Args:
        model: a transformers model in evaluation mode, or its anatomy.
    Raises:
        UnsupportedModel: it has other attention.
        ConfigError: it is in training mode.
    """
    body = model if isinstance(model, Anatomy) else anatomy.of(model)
    body.require("latent_attention", "causal", "single_stack", method="absorbed decoding")
    if body.model.training:
        raise ConfigError("absorbed decoding is for a model that has been trained", do="call model.eval() first")
    before = body.config._attn_implementation
    modules = {attention.module: attention for attention in body.attentions()}
    body.model.set_attn_implementation(ABSORBED)
    try:
        _ATTENTIONS.update(modules)
        for module in modules:
            vars(module)["expand_kv"] = _unexpanded
        yield
    finally:
        for module in modules:
            vars(module).pop("expand_kv", None)
            _ATTENTIONS.pop(module, None)
        body.model.set_attn_implementation(before)


def _unexpanded(latents: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1, T, R + S) and (B, 1, T, R): latents and shared keys as the key, latents as the value of one head."""
    return torch.cat([latents, shared], -1), latents


@torch.no_grad()
def attend_to_latents(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The kernel as transformers calls it: (B, N, T, H) queries and what `_unexpanded` gives in, (B, T, N, V) out."""
    attention = _ATTENTIONS[module]
    heads = attention.num_heads
    key_NUR, value_NVR = (w.read().reshape(heads, -1, value.shape[-1]) for w in (attention.key, attention.value))
    own = key_NUR.shape[1]
    asked = torch.cat([torch.einsum("bntu,nur->bntr", query[..., :own], key_NUR), query[..., own:]], -1)
    key, value = (x.expand(-1, heads, -1, -1) for x in (key, value))
    seen, _ = attend(module, asked, key, value, attention_mask, **kwargs)
    return torch.einsum("btnr,nvr->btnv", seen, value_NVR), None


AttentionInterface.register(ABSORBED, attend_to_latents)
AttentionMaskInterface.register(ABSORBED, sdpa_mask)
