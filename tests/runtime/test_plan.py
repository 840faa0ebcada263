"""From anatomy to plan: families, refusals, and the check against the model's own logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    PersimmonConfig,
    PersimmonForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from pomona.anatomy.tiny import tiny_model
from pomona.runtime.folder import LoadedModel
from pomona.runtime.native import Linear, NativeStep, NoNativeStep
from pomona.runtime.plan import check, plan_of
from tests.runtime.conftest import VOCABULARY, loud
from tests.tiny import bert, gpt2, llama

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def loaded(model: Any) -> LoadedModel:
    model = loud(model)
    return LoadedModel(model, None, model, {}, "float32")


FAMILIES = {
    "llama": lambda: llama(num_key_value_heads=1),
    "llama, untied, scaled rotary": lambda: llama(
        tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "llama, relu": lambda: llama(hidden_act="relu"),
    "llama, wide heads": lambda: llama(head_dim=24),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=12)),
    "gpt2": gpt2,
    "opt": lambda: tiny_model("opt"),
    "gpt2, gelu": lambda: gpt2(activation_function="gelu"),
    "gpt2, unscaled": lambda: gpt2(scale_attn_weights=False),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_families(family: str, dtype: torch.dtype) -> None:
    """Catches: a family whose step was lost; biases, head norms, ties and activations that were left out."""
    torch.manual_seed(0)
    ready = loaded(FAMILIES[family]().to(dtype))
    check(NativeStep(plan_of(ready)), ready)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=16)), "window"),
        (bert, "causal|norms before"),
        (lambda: gpt2(scale_attn_by_inverse_layer_idx=True), "equal sizes and scaling"),
        (lambda: llama(hidden_act="tanh"), "activations"),
        (
            lambda: llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}),
            "change with the length",
        ),
        (lambda: PersimmonForCausalLM(PersimmonConfig(**SIZES)), "anatomy"),
        (lambda: tiny_model("gpt_neox"), "one after the other"),
        (lambda: tiny_model("phi3", sliding_window=None), "partly rotary"),
        (lambda: tiny_model("smollm3", use_sliding_window=False, sliding_window=None), "some blocks only"),
        (lambda: tiny_model("opt-narrow"), "projections around"),
        (lambda: tiny_model("mixtral"), "every token goes through"),
    ],
)
def test_what_it_does_not_compute_is_named(model: Any, reason: str) -> None:
    """Catches: silence about why decoding is slow; a plan for a model that it does not describe."""
    torch.manual_seed(0)
    with pytest.raises(NoNativeStep, match=reason):
        plan_of(loaded(model()))


def _without_bias(plan: Any) -> Any:
    first = plan.blocks[0]
    return replace(plan, blocks=[replace(first, output=Linear(first.output.weight)), *plan.blocks[1:]])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda plan: replace(plan, scaling=plan.scaling * 1.02),
        lambda plan: replace(plan, rotary=lambda n: tuple(t * 1.001 for t in plan.rotary(n))),
        lambda plan: replace(plan, activation="gelu"),
        lambda plan: replace(plan, final_norm=replace(plan.final_norm, epsilon=0.01)),
        _without_bias,
    ],
)
def test_the_check_sees_small_differences(tiny_llama: Any, spoil: Any) -> None:
    """Catches: a check that is too coarse, or that looks at too little, to notice a wrong plan."""
    ready = LoadedModel(tiny_llama, None, tiny_llama, {}, "float32")
    plan = plan_of(ready)
    check(NativeStep(plan), ready)
    with pytest.raises(NoNativeStep, match="does not compute what the model computes"):
        check(NativeStep(spoil(plan)), ready)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh"), ("gelu", "gelu"), ("silu", "silu")],
)
def test_activations_are_told_apart(name: str, kind: str) -> None:
    """Catches: taking the tanh approximation for the exact function, which differ in the fourth digit."""
    assert plan_of(loaded(gpt2(activation_function=name))).activation == kind
