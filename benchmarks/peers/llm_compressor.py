"""llm-compressor's GPTQ on a model folder, in an environment of its own: it pins other versions than pomona.

    PYTHON benchmarks/peers/llm_compressor.py MODEL CALIBRATION.safetensors OUT.safetensors GROUP_SIZE

Prints one line of JSON: the seconds of `oneshot` alone, and versions. Nothing of pomona is imported.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time


def main(model_folder: str, calibration: str, out: str, group_size: int) -> None:
    """Quantize, and write the dequantized weights."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    # it wants a tokenizer, also for data that are tokens already
    words = Tokenizer(WordLevel({"<pad>": 0}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    rows = load_file(calibration)["input_ids"]
    data = Dataset.from_dict({"input_ids": rows.tolist(), "attention_mask": torch.ones_like(rows).tolist()})
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group_size}
    recipe = GPTQModifier(
        config_groups={"group_0": {"targets": ["Linear"], "weights": weights}},
        ignore=["lm_head"],
        block_size=128,
        dampening_frac=0.01,
        actorder="static",
    )
    begin = time.perf_counter()
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=data,
        recipe=recipe,
        max_seq_length=rows.shape[1],
        num_calibration_samples=rows.shape[0],
        shuffle_calibration_samples=False,
    )
    seconds = time.perf_counter() - begin
    state = {}
    for name, module in model.named_modules():
        if hasattr(module, "quantization_scheme"):
            scale = module.weight_scale.repeat_interleave(group_size, dim=1)
            codes = (module.weight / scale).round().clamp(-8, 7)
            state[f"{name}.weight"] = (codes * scale).detach().contiguous()
    save_file(state, out)
    packages = ("llmcompressor", "compressed-tensors", "transformers", "torch")
    print(json.dumps({"seconds": seconds, "versions": {name: importlib.metadata.version(name) for name in packages}}))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
