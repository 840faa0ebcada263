"""Reading model folders, and refusing what cannot or must not be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pomona import anatomy
from pomona.ground.errors import ConfigError, DamagedArtefact, PomonaError, UnsafeFile, UnsupportedModel
from pomona.runtime.folder import load_model
from tests.runtime.conftest import Quantize, loud
from tests.tiny import bert, llama

TOKENS = torch.arange(24)[None] % 90


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (4, None), (3, 32), (8, 32)])
def test_packed_folders(
    quantized: Quantize, tiny_llama: Any, bits: int, group_size: int | None, symmetric: bool
) -> None:
    """Catches: a packed layer in the wrong place, a lost bias, scales that lose digits, zero points ignored."""
    folder, rounded = quantized(tiny_llama, bits, group_size, symmetric)
    loaded = load_model(folder)
    assert len(loaded.packed) == (0 if bits == 8 else 14)
    assert bool(loaded.notes) == (bits == 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(TOKENS).logits, rounded(TOKENS).logits, rtol=1e-4, atol=1e-4)
    size = sum(p.numel() * 4 for p in tiny_llama.parameters())
    assert loaded.weight_bytes == size if bits == 8 else loaded.weight_bytes < 0.6 * size


def test_a_quantized_head(quantized: Quantize) -> None:
    """Catches: taking a packed head for the embedding that it is no longer tied to."""
    model = loud(llama(tie_word_embeddings=False, intermediate_size=96))
    folder, rounded = quantized(model, ignore=())
    loaded = load_model(folder)
    assert "lm_head" in loaded.packed
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(TOKENS).logits, rounded(TOKENS).logits, rtol=1e-4, atol=1e-4)


def test_blocks_of_other_sizes(quantized: Quantize, tiny_llama: Any) -> None:
    """Catches: a folder whose sizes are recorded being built as if all blocks were alike."""
    body = anatomy.of(tiny_llama)
    with body.edit() as edit:
        edit.keep(body.blocks[1].ffn.features, range(32))
    folder, rounded = quantized(tiny_llama, 4, 32, False)
    loaded = load_model(folder)
    assert [block.ffn.features.size for block in loaded.body().blocks] == [tiny_llama.config.intermediate_size, 32]
    assert len(loaded.packed) == 14
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(TOKENS).logits, rounded(TOKENS).logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(anatomy.load(folder)(TOKENS).logits, rounded(TOKENS).logits, rtol=1e-4, atol=1e-4)


def test_dense_folders_keep_their_dtype(tmp_path: Path, tiny_llama: Any) -> None:
    """Catches: silently computing a float32 model in bfloat16, or the other way round."""
    tiny_llama.save_pretrained(tmp_path / "full", max_shard_size="60KB")
    assert len(list((tmp_path / "full").glob("*.safetensors"))) > 1
    tiny_llama.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert load_model(tmp_path / "full").scheme == "float32"
    assert load_model(tmp_path / "half").scheme == "bfloat16"
    assert load_model(tmp_path / "full", "bfloat16").model.dtype == torch.bfloat16


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _remote(folder: Path) -> None:
    change_config(folder, model_type="unheard_of", auto_map={"AutoModelForCausalLM": "modeling.Unheard"})


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _torn(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "lla')


def _adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def _no_scheme(folder: Path) -> None:
    change_config(folder, quantization_config=None)


def _other_scheme(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})


def _no_scale(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight_scale"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _no_place(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors = {name.replace("up_proj", "upward"): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _wider(folder: Path) -> None:
    change_config(folder, intermediate_size=160)


def _no_packed(folder: Path) -> None:
    tensors = {k: v for k, v in load_file(folder / "model.safetensors").items() if "weight_" not in k}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "kind", "named"),
    [
        (_empty, ConfigError, "no config.json"),
        (_adapter, ConfigError, "adapter"),
        (_pickled, UnsafeFile, "pytorch_model.bin"),
        (_remote, UnsafeFile, "auto_map"),
        (_cut, DamagedArtefact, "model.safetensors is damaged"),
        (_torn, DamagedArtefact, "config.json is damaged"),
        (_no_scheme, ConfigError, "quantization_config"),
        (_other_scheme, ConfigError, "'bitsandbytes'"),
        (_no_scale, DamagedArtefact, "up_proj is incomplete|cannot load"),
        (_no_place, UnsupportedModel, "upward"),
        (_no_packed, ConfigError, "no packed weights"),
    ],
)
def test_refusals(quantized: Quantize, tiny_llama: Any, spoil: Any, kind: type[PomonaError], named: str) -> None:
    """Catches: a traceback, a pickle that is read, a model with weights that were never loaded."""
    folder, _ = quantized(tiny_llama)
    spoil(folder)
    with pytest.raises(kind, match=named):
        load_model(folder)


def test_weights_of_another_size(tmp_path: Path, tiny_llama: Any) -> None:
    """Catches: a dense model that is partly random because config and weights do not belong together."""
    tiny_llama.save_pretrained(tmp_path)
    _wider(tmp_path)
    with pytest.raises(DamagedArtefact, match="cannot load"):
        load_model(tmp_path)


def test_a_missing_folder_and_a_model_without_next_token(tmp_path: Path) -> None:
    """Catches: an error from deep inside transformers."""
    with pytest.raises(ConfigError, match="no such folder"):
        load_model(tmp_path / "nowhere")
    from transformers import T5Config, T5ForConditionalGeneration

    T5ForConditionalGeneration(
        T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "t5")
    with pytest.raises(UnsupportedModel, match="'t5'"):
        load_model(tmp_path / "t5")
    bert().save_pretrained(tmp_path / "bert")
