"""From a name to a model: nothing is loaded to look, and the tiny one keeps the options of the large one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from pomona import anatomy
from pomona.anatomy.specimen import config_of, meta_model, specimen, tiny_like
from pomona.anatomy.tiny import TINY
from pomona.ground.errors import ConfigError, DataError, UnsafeFile

from .conftest import make

FIRST = {tiny.model_type: name for name, tiny in reversed(TINY.items())}


@pytest.mark.parametrize("name", list(FIRST.values()))
def test_every_type_is_found_by_name(name: str) -> None:
    """Breaks when a type that is shipped cannot be shown, on the meta device in its full default size, or when no tiny
    model with its default options can be made and run."""
    config = config_of(name)
    model = meta_model(config)
    assert all(parameter.is_meta for parameter in model.parameters()) and not model.training
    assert all(body.capabilities for body in anatomy.towers(model).values())
    assert all(anatomy.verify_weights(body).passed for body in anatomy.towers(tiny_like(config)).values())


OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "hidden_act": "relu", "num_key_value_heads": 8},
    "gpt2": {"activation_function": "relu", "tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True},
    "t5": {"feed_forward_proj": "gated-silu"},
    "bert": {"hidden_act": "relu", "layer_norm_eps": 1e-3},
}


@pytest.mark.parametrize("name", list(OPTIONS))
def test_the_tiny_model_has_the_options_of_the_large_one(name: str) -> None:
    """Breaks when what is proven is another computation than that of the model that was named."""
    large = AutoConfig.for_model(name, **OPTIONS[name])
    small = tiny_like(large)
    for option, value in OPTIONS[name].items():
        if option != "num_key_value_heads":
            assert getattr(small.config, option) == value
    assert anatomy.of(small).capabilities == anatomy.of(meta_model(large)).capabilities
    assert sum(parameter.numel() for parameter in small.parameters()) < 100_000


def test_folders_are_read_without_their_weights(tmp_path: Path) -> None:
    """Breaks when weights are needed to look at a model, or another class than the saved one is shown."""
    make("gpt2", n_layer=2).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    body = anatomy.of(meta_model(config_of(str(tmp_path))))
    assert type(body.model).__name__ == "GPT2LMHeadModel" and len(body.blocks) == 2
    assert type(specimen(str(tmp_path))).__name__ == "GPT2LMHeadModel"


def test_wrong_names_are_answered(tmp_path: Path) -> None:
    """Breaks when a typing error looks for a model on the network, or foreign code is run."""
    with pytest.raises(ConfigError, match=r"did you mean .*'llama'"):
        config_of("lama")
    with pytest.raises(DataError, match="is not a model"):
        config_of(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(UnsafeFile, match="own code"):
        config_of(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine"}))
    with pytest.raises(DataError, match="does not know this model_type: 'mine'"):
        config_of(str(tmp_path))
