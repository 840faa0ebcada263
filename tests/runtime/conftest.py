"""Small models with large random weights, folders in the compressed-tensors format, a small tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers import decoders as token_decoders
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests.tiny import VOCABULARY, gpt2, llama


def loud(model: Any, seed: int = 0) -> Any:
    """The model with random values in every parameter, gains and biases too, so that leaving one out shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def tiny_llama() -> Any:
    """Grouped queries and biases, hidden size 64."""
    return loud(
        llama(
            hidden_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=96,
            attention_bias=True,
            mlp_bias=True,
        )
    )


@pytest.fixture
def tiny_gpt2() -> Any:
    """Fused and transposed projections, learned positions; hidden size 36, which fills no vector."""
    return loud(gpt2(n_embd=36, n_head=3))


Quantize = Callable[..., tuple[Path, Any]]


@pytest.fixture
def quantized(tmp_path: Path) -> Quantize:
    """Round a model and save it with the compressed-tensors library.

    Returns a function (model, bits, group_size | None, symmetric, dtype) -> (folder, dense model with the rounded
    weights as the library itself dequantizes them).
    """

    def make(
        model: Any,
        bits: int = 4,
        group_size: int | None = 32,
        symmetric: bool = True,
        ignore: tuple[str, ...] = ("lm_head",),
    ) -> tuple[Path, Any]:
        model = deepcopy(model)
        strategy = {"strategy": "group", "group_size": group_size} if group_size else {"strategy": "channel"}
        arguments = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, **strategy)
        config = QuantizationConfig(
            config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=arguments)},
            ignore=list(ignore),
            format="pack-quantized",
            quantization_status="compressed",
        )
        apply_quantization_config(model, config)
        for module in model.modules():
            if getattr(module, "quantization_scheme", None) is not None:
                weight = module.weight.data
                grouped = weight.reshape(weight.shape[0], -1, group_size or weight.shape[1])
                scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), arguments)
                module.weight_scale.data = scale.to(module.weight_scale.dtype)
                if not symmetric:
                    module.weight_zero_point.data = zero.to(module.weight_zero_point.dtype)
        compressor = ModelCompressor(quantization_config=config)
        compressor.compress_model(model)
        folder = tmp_path / f"w{bits}-{group_size}-{'sym' if symmetric else 'asym'}"
        model.save_pretrained(folder)
        compressor.update_config(folder)
        compressor.decompress_model(model)
        for module in model.modules():  # from now on an ordinary model with the rounded weights
            if hasattr(module, "quantization_scheme"):
                del module.quantization_scheme
        return folder, model.eval()

    return make


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text can be written, and one character may need several tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = token_decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the model reads a text and writes a text"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """What transformers writes."""
    with torch.no_grad():
        made: Tensor = model.generate(
            torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    return made[0, len(prompt) :].tolist()


__all__ = ["VOCABULARY", "greedy", "loud"]
