"""Tiny random models of every known type: what the probes run on, and what methods are tried on.

A row of `TINY` says how a model is made: its type, its class, and sizes so small that a forward pass takes
milliseconds. Options that change what a block computes are on, and numbers that could be mistaken for one another
differ. A type may have several rows, named type-option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pomona.ground.errors import ConfigError, did_you_mean

VOCABULARY = 96
SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
"""The settings of most rows."""
GROUPED: Mapping[str, Any] = {**SIZES, "num_key_value_heads": 2}
ROTARY_HALF = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
LATENT: Mapping[str, Any] = {
    **SIZES,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 7,
    "initializer_range": 0.02,
}
EXPERTS = {"num_experts_per_tok": 2, "experts_implementation": "eager"}
KINDS = ["full_attention", "sliding_attention", "full_attention"]
ENDS: Mapping[str, Any] = {**SIZES, "pad_token_id": 1, "eos_token_id": 2}
IMAGES: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 4,
    "num_labels": 5,
}


@dataclass(frozen=True)
class Tiny:
    """How a tiny model is made.

    Args:
        model_type: as in the configuration.
        settings: of the configuration.
        auto: the class of transformers that makes the model.
    """

    model_type: str
    settings: Mapping[str, Any] = field(default_factory=lambda: SIZES)
    auto: str = "AutoModelForCausalLM"


_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
_OPT = {**{name: value for name, value in SIZES.items() if name != "intermediate_size"}, "ffn_dim": 48}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

_SCALED = {**{k: v for k, v in IMAGES.items() if k != "intermediate_size"}, "layerscale_value": 0.7}
_RELATIVE = {
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    "scale_embedding": True,
}
_SOUNDS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 20,
    "conv_dim": [12, 16],
    "conv_stride": [4, 4],
    "conv_kernel": [8, 4],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}

TINY: dict[str, Tiny] = {
    "llama": Tiny("llama", {**SIZES, "num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama-grouped-untied": Tiny("llama", GROUPED),
    "mistral": Tiny("mistral", {**GROUPED, "sliding_window": 8}),
    "qwen2": Tiny("qwen2", GROUPED),
    "qwen3": Tiny(
        "qwen3",
        {
            **GROUPED,
            "head_dim": 16,
            "layer_types": KINDS,
            "sliding_window": 6,
            "use_sliding_window": True,
            "tie_word_embeddings": True,
        },
    ),
    "smollm3": Tiny(
        "smollm3",
        {
            **GROUPED,
            "no_rope_layers": [1, 0, 1],
            "layer_types": KINDS,
            "use_sliding_window": True,
            "sliding_window": 6,
        },
    ),
    "youtu": Tiny("youtu", {**LATENT, "rope_interleave": False}),
    "youtu-factored": Tiny("youtu", {**LATENT, "q_lora_rank": 20, "attention_bias": True}),
    "gemma2": Tiny(
        "gemma2",
        {
            **GROUPED,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "layer_types": KINDS,
            "sliding_window": 6,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma3_text": Tiny(
        "gemma3_text",
        {**GROUPED, "head_dim": 16, "query_pre_attn_scalar": 24, "layer_types": KINDS, "sliding_window": 6},
    ),
    "gemma": Tiny("gemma", {**GROUPED, "head_dim": 16, "tie_word_embeddings": False}),
    "olmo2": Tiny("olmo2", GROUPED),
    "olmo3": Tiny("olmo3", {**GROUPED, "layer_types": KINDS, "sliding_window": 6}),
    "granite": Tiny(
        "granite",
        {
            **GROUPED,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.7,
            "logits_scaling": 2.0,
        },
    ),
    "phi": Tiny("phi", {**SIZES, "rope_parameters": ROTARY_HALF}),
    "phi-normed": Tiny("phi", {**SIZES, "rope_parameters": ROTARY_HALF, "qk_layernorm": True}),
    "gpt_neox": Tiny("gpt_neox", {**SIZES, "rope_parameters": ROTARY_HALF}),
    "gpt_neox-sequential": Tiny(
        "gpt_neox", {**SIZES, "use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True}
    ),
    "phi3": Tiny("phi3", {**GROUPED, "sliding_window": 6, "rope_parameters": ROTARY_HALF}),
    "mixtral": Tiny("mixtral", {**GROUPED, **EXPERTS, "num_local_experts": 4, "sliding_window": None}),
    "qwen2_moe": Tiny(
        "qwen2_moe",
        {
            **GROUPED,
            **EXPERTS,
            "num_experts": 5,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
            "mlp_only_layers": [1],
            "layer_types": KINDS,
            "use_sliding_window": True,
            "sliding_window": 6,
        },
    ),
    "qwen3_moe": Tiny(
        "qwen3_moe",
        {
            **GROUPED,
            **EXPERTS,
            "num_experts": 5,
            "moe_intermediate_size": 24,
            "head_dim": 16,
            "norm_topk_prob": True,
            "decoder_sparse_step": 2,
        },
    ),
    "opt": Tiny("opt", {**_OPT, "word_embed_proj_dim": 32}),
    "opt-post": Tiny("opt", {**_OPT, "word_embed_proj_dim": 24, "do_layer_norm_before": False}),
    "opt-narrow": Tiny("opt", {**_OPT, "word_embed_proj_dim": 24, "tie_word_embeddings": False}),
    "gpt2": Tiny("gpt2", _GPT2),
    "gpt2-by-depth": Tiny("gpt2", {**_GPT2, "scale_attn_by_inverse_layer_idx": True}),
    "bert": Tiny("bert", SIZES, "AutoModelForMaskedLM"),
    "bert-decoder": Tiny("bert", {**SIZES, "is_decoder": True}),
    "t5": Tiny("t5", _T5, "AutoModelForSeq2SeqLM"),
    "t5-gated": Tiny("t5", {**_T5, "feed_forward_proj": "gated-gelu"}, "AutoModelForSeq2SeqLM"),
    "roberta": Tiny("roberta", ENDS, "AutoModelForMaskedLM"),
    "xlm-roberta": Tiny("xlm-roberta", ENDS, "AutoModelForMaskedLM"),
    "camembert": Tiny("camembert", ENDS, "AutoModelForMaskedLM"),
    "roberta-classifier": Tiny("roberta", {**ENDS, "num_labels": 5}, "AutoModelForSequenceClassification"),
    "bert-classifier": Tiny("bert", {**SIZES, "num_labels": 5}, "AutoModelForSequenceClassification"),
    "roberta-causal": Tiny("roberta", {**ENDS, "is_decoder": True}, "AutoModelForCausalLM"),
    "electra-causal": Tiny("electra", {**ENDS, "is_decoder": True, "embedding_size": 24}, "AutoModelForCausalLM"),
    "electra": Tiny("electra", {**ENDS, "embedding_size": 24}, "AutoModelForMaskedLM"),
    "electra-discriminator": Tiny("electra", {**ENDS, "embedding_size": 24}, "AutoModelForPreTraining"),
    "electra-square": Tiny("electra", {**ENDS, "embedding_size": 32}, "AutoModelForMaskedLM"),
    "mpnet": Tiny("mpnet", ENDS, "AutoModelForMaskedLM"),
    "modernbert": Tiny(
        "modernbert",
        {**ENDS, "local_attention": 8, "cls_token_id": 0, "sep_token_id": 2},
        "AutoModelForMaskedLM",
    ),
    "deberta-v2": Tiny("deberta-v2", {**ENDS, **_RELATIVE}, "AutoModelForMaskedLM"),
    "deberta-v2-own": Tiny(
        "deberta-v2",
        {
            **ENDS,
            **_RELATIVE,
            "share_att_key": False,
            "norm_rel_ebd": "none",
            "conv_kernel_size": 3,
            "position_biased_input": True,
            "type_vocab_size": 2,
            "embedding_size": 24,
        },
        "AutoModelForMaskedLM",
    ),
    "bart": Tiny("bart", _BART, "AutoModelForSeq2SeqLM"),
    "mbart": Tiny("mbart", _BART, "AutoModelForSeq2SeqLM"),
    "esm": Tiny(
        "esm",
        {**ENDS, "position_embedding_type": "rotary", "token_dropout": True, "mask_token_id": 3},
        "AutoModelForMaskedLM",
    ),
    "esm-normed": Tiny(
        "esm",
        {**ENDS, "position_embedding_type": "rotary", "emb_layer_norm_before": True, "mask_token_id": 3},
        "AutoModelForMaskedLM",
    ),
    "esm-learned": Tiny(
        "esm",
        {
            **ENDS,
            "position_embedding_type": "absolute",
            "emb_layer_norm_before": True,
            "token_dropout": True,
            "mask_token_id": 3,
        },
        "AutoModelForMaskedLM",
    ),
    "vit": Tiny("vit", IMAGES, "AutoModelForImageClassification"),
    "vit-masked": Tiny("vit", {**IMAGES, "encoder_stride": 4}, "AutoModelForMaskedImageModeling"),
    "deit": Tiny(
        "deit",
        {**IMAGES, "architectures": ["DeiTForImageClassificationWithTeacher"]},
        "AutoModelForImageClassification",
    ),
    "dinov2": Tiny("dinov2", _SCALED, "AutoModelForImageClassification"),
    "dinov2-gated": Tiny("dinov2", {**_SCALED, "use_swiglu_ffn": True}, "AutoModel"),
    "dinov2_with_registers": Tiny(
        "dinov2_with_registers", {**_SCALED, "num_register_tokens": 3}, "AutoModelForImageClassification"
    ),
    "audio-spectrogram-transformer": Tiny(
        "audio-spectrogram-transformer",
        {**IMAGES, "num_mel_bins": 16, "max_length": 24, "frequency_stride": 4, "time_stride": 4},
        "AutoModelForAudioClassification",
    ),
    "videomae": Tiny("videomae", {**IMAGES, "num_frames": 4, "tubelet_size": 2}, "AutoModelForVideoClassification"),
    "videomae-first": Tiny(
        "videomae",
        {**IMAGES, "num_frames": 4, "tubelet_size": 2, "use_mean_pooling": False},
        "AutoModelForVideoClassification",
    ),
    "clip": Tiny(
        "clip",
        {
            "text_config": {**ENDS, "eos_token_id": 3},
            "vision_config": {**IMAGES, "hidden_size": 24},
            "projection_dim": 20,
        },
        "AutoModel",
    ),
    "clip_text_model": Tiny("clip_text_model", {**ENDS, "eos_token_id": 3}, "AutoModel"),
    "clip_vision_model": Tiny("clip_vision_model", IMAGES, "AutoModel"),
    "wav2vec2": Tiny("wav2vec2", _SOUNDS, "AutoModelForCTC"),
    "wav2vec2-stable": Tiny(
        "wav2vec2", {**_SOUNDS, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}, "AutoModel"
    ),
    "hubert": Tiny("hubert", _SOUNDS, "AutoModelForCTC"),
}


def tiny_model(name: str, **changes: Any) -> Any:
    """A tiny random `PreTrainedModel` in evaluation mode; the same one at every call.

    Args:
        name: of a row of `TINY`: a model type, or one of its further rows.
        changes: settings of the configuration that replace those of the row.
    Raises:
        ConfigError: there is no such row.
    """
    import transformers

    row = TINY.get(name)
    if row is None:
        raise ConfigError(f"there is no tiny model {name!r}", do=did_you_mean(name, TINY))
    config = transformers.AutoConfig.for_model(row.model_type, **{**row.settings, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, row.auto).from_config(config)
    return model.eval()
