"""Models that are scored within an accelerator: from a recipe, and refused when they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pomona.ground.errors import ConfigError
from pomona.stages import run

LLAMA = {"shape": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
         "max_position_embeddings": 64}  # fmt: skip
BERT = {"shape": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 64}  # fmt: skip
NARROW = {"method": "minference", "default": {"shape": "a_shape", "initial": 0, "local": 1}}
WIDE = {"method": "minference", "default": {"shape": "a_shape", "initial": 32, "local": 32}}


def recipe(texts: Path, model: dict[str, Any], objective: str, *accelerators: Any) -> dict[str, Any]:
    shared = {"batch_size": 4, "seq_length": 32, "steps": 30, "validation_tokens": 256}
    return {
        "name": "fast",
        "stages": [
            {"corpus": {"sources": [str(texts)], "validation": 0.2}},
            {"tokenize": {"vocab_size": 300, "mask_token": "<mask>"}},
            {"pretrain": {"model": model, "objective": objective, **shared}},
            *(
                {"examine": {"name": f"exam{number}", "tokens": 256, "decode_tokens": 2, "accelerator": each}}
                for number, each in enumerate(accelerators)
            ),
        ],
    }


def test_scores_are_those_of_the_accelerated_model(texts: Path, tmp_path: Path) -> None:
    """Catches an accelerator that is read and not used, and one that stays for the next stage."""
    made = run(recipe(texts, LLAMA, "next-token", None, NARROW, WIDE, None), out=tmp_path)
    losses = []
    for number in range(4):
        (row,) = json.loads((made[f"exam{number}"].folder / "examination.json").read_text())["models"]
        losses.append(row["quality"]["nats_per_token"])
    assert losses[0] == losses[3] and abs(losses[1] - losses[0]) > 1e-4
    assert abs(losses[2] - losses[0]) < 1e-2


def test_a_model_that_does_not_fit_is_refused_before_anything_runs(texts: Path, tmp_path: Path) -> None:
    """Catches a refusal that comes after the training."""
    with pytest.raises(ConfigError, match=r"examine.accelerator: minference cannot run on BertForMaskedLM"):
        run(recipe(texts, BERT, "masked-lm", NARROW), out=tmp_path)
    with pytest.raises(ConfigError, match="minference"):
        run(recipe(texts, LLAMA, "next-token", "minferense"), out=tmp_path)
