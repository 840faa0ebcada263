"""Absorbed decoding: the same answers from latents alone, and a model that is as before afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy.probes.lab import enlarged
from pomona.anatomy.tiny import tiny_model
from pomona.conversion import XEcomlaConfig, x_ecomla_
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.runtime.latent_decode import absorbed

IDS = torch.arange(20).view(2, 10) * 7 % 90 + 3


def converted(dtype: torch.dtype) -> Any:
    model = enlarged(tiny_model("llama-grouped-untied")).to(dtype)
    x_ecomla_(model, XEcomlaConfig(rank=9, rotary=4, query_rank=20))
    return model


MODELS = {
    "plain queries, interleaved": lambda dtype: enlarged(tiny_model("youtu", rope_interleave=True)).to(dtype),
    "converted": converted,
}


def stepwise(model: Any, prompt: int = 1) -> tuple[Tensor, Any]:
    """Logits of a prompt and of one token after another, and the cache."""
    out = model(IDS[:, :prompt], use_cache=True)
    found, cache = [out.logits], out.past_key_values
    for token in IDS[:, prompt:].unbind(1):
        out = model(token[:, None], past_key_values=cache, use_cache=True)
        found.append(out.logits)
    return torch.cat(found, 1), cache


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("prompt", [1, 4])
@torch.no_grad()
def test_decodes_what_the_forward_says(name: str, dtype: torch.dtype, error: float, prompt: int) -> None:
    """Catches a key or value map that is absorbed on the wrong side, scores with another factor, a prompt that sees
    later tokens, and a cache of expanded keys."""
    model = MODELS[name](dtype)
    expected = model(IDS).logits
    plain = anatomy.of(model).blocks[0].attention.module.expand_kv
    with absorbed(model):
        found, cache = stepwise(model, prompt)
    assert float((found - expected).abs().max() / expected.abs().max()) < error
    held = sum(x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values))
    assert held == anatomy.of(model).kv_cache_bytes(IDS.shape[1], batch=len(IDS))
    assert anatomy.of(model).blocks[0].attention.module.expand_kv == plain
    assert torch.equal(model(IDS).logits, expected)


@torch.no_grad()
def test_generates_the_same_after_a_prompt_with_padding() -> None:
    """Catches a mask that is lost: what is padded on the left must not be attended to."""
    model = converted(torch.float64)
    mask = torch.ones_like(IDS)
    mask[0, :4] = 0
    settings = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 1}
    expected = model.generate(IDS, **settings)
    with absorbed(model):
        assert torch.equal(model.generate(IDS, **settings), expected)
    assert not torch.equal(model.generate(IDS, **{**settings, "attention_mask": torch.ones_like(IDS)}), expected)


def test_other_models_and_training_are_refused() -> None:
    """Catches keys and values of heads that are taken for latents, and gradients that silently stop."""
    with pytest.raises(UnsupportedModel, match="latent_attention"), absorbed(tiny_model("llama")):
        pass
    with pytest.raises(ConfigError, match="eval"), absorbed(tiny_model("youtu").train()):
        pass
