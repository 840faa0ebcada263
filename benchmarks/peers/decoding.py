"""Writing one sequence on the CPU with transformers: eager, compiled and frozen, and with int4 weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from benchmarks.meter import Meter

Weights = Literal["float32", "bfloat16", "torchao", "aten"]
GROUP = 128


class Int4Linear(nn.Module):
    """A linear layer on torch's own int4 product, the weight rounded to nearest in groups of 128."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        rows, columns = linear.weight.shape
        grouped = linear.weight.detach().float().view(rows, -1, GROUP)
        scale = (grouped.abs().amax(-1) / 7.5).clamp_min(1e-8)
        codes = (torch.round(grouped / scale[..., None]).clamp(-8, 7) + 8).view(rows, columns).to(torch.int32)
        self.register_buffer("packed", torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1))
        both = torch.stack((scale, torch.zeros_like(scale)), dim=-1).transpose(0, 1)
        self.register_buffer("scale", both.contiguous().to(torch.bfloat16))
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, self.packed, GROUP, self.scale)
        return out.view(*x.shape[:-1], self.rows)


def load(folder: str, weights: Weights) -> Any:
    """The model in the storage that is asked for; the head stays bfloat16 beside int4 weights."""
    dtype = torch.float32 if weights == "float32" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    if weights == "torchao":
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
        from torchao.quantization import quantize_

        quantize_(
            model,
            PrototypeInt4WeightOnlyConfig(group_size=GROUP),
            filter_fn=lambda module, name: isinstance(module, nn.Linear) and "lm_head" not in name,
        )
    elif weights == "aten":
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and "lm_head" not in name:
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, Int4Linear(module))
    return model


@torch.no_grad()
def write(meter: Meter, *, folder: str, weights: Weights, compiled: bool, prompt: int, context: int) -> None:
    """Write greedily after a random prompt up to `context` tokens, for ever: one tick to each new token.

    With `compiled` the whole step, argmax included, is one graph into which the weights are frozen.
    """
    model = load(folder, weights)
    tokens = torch.randint(model.config.vocab_size, (1, prompt), generator=torch.Generator().manual_seed(0))

    def forward(ids: Tensor, cache: Any) -> Tensor:
        return model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1, keepdim=True)

    step: Callable[[Tensor, Any], Tensor] = forward
    if compiled:
        step = torch.compile(forward, dynamic=False, options={"freezing": True})
    static = StaticCache(config=model.config, max_cache_len=context)
    first = True
    while True:
        if compiled:
            static.reset()
        cache = static if compiled else DynamicCache(config=model.config)
        token = forward(tokens, cache)
        meter.tick()
        for _ in range(context - prompt - 1):
            token = step(token, cache)
            int(token)  # the caller wants to see it
            if first:
                meter.report("first")
                first = False
            meter.tick()
