"""Benchmarks that models answer while they are examined: from a recipe, and refused when they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pomona.ground.errors import ConfigError
from pomona.stages import run

SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
         "max_position_embeddings": 2048}  # fmt: skip
SMALL = {"method": "scbench", "tasks": ["kv"], "size": 500, "turns": 2}


def recipe(texts: Path, shape: str, objective: str, benchmark: Any) -> dict[str, Any]:
    shared = {"batch_size": 4, "seq_length": 32, "steps": 2, "validation_tokens": 256}
    return {
        "name": "asked",
        "stages": [
            {"corpus": {"sources": [str(texts)], "validation": 0.2}},
            {"tokenize": {"vocab_size": 300, "mask_token": "<mask>"}},
            {"pretrain": {"name": "model", "model": {"shape": shape, **SHAPE}, "objective": objective, **shared}},
            {"examine": {"name": "exam", "tokens": 256, "decode_tokens": 2, "benchmark": benchmark}},
        ],
    }


def test_every_answer_is_kept(texts: Path, tmp_path: Path) -> None:
    """Catches a benchmark that is read and not run, answers that are lost, and means that are not those of them."""
    exam = run(recipe(texts, "llama", "next-token", SMALL), out=tmp_path)["exam"]
    told = json.loads((exam.folder / "benchmark.json").read_text())["model"]
    assert {each["policy"] for each in told["scores"]} == {"dense", "streaming", "snapkv", "quest", "kivi"}
    assert {each["mode"] for each in told["scores"]} == {"multi_turn", "multi_request"} and len(told["scores"]) == 20
    dense = [each["score"] for each in told["scores"] if each["policy"] == "dense" and each["mode"] == "multi_turn"]
    assert told["numbers"]["dense, multi_turn"] == sum(dense) / len(dense)
    assert told["numbers"]["kivi, bytes"] < told["numbers"]["dense, bytes"]
    assert exam.facts["benchmark"]["model"] == told["numbers"]


def test_a_model_that_does_not_fit_is_refused_before_anything_runs(texts: Path, tmp_path: Path) -> None:
    """Catches a refusal that comes after the training, and names that are no benchmark's."""
    with pytest.raises(ConfigError, match=r"examine.benchmark: .*BertForMaskedLM"):
        run(recipe(texts, "bert", "masked-lm", SMALL), out=tmp_path)
    with pytest.raises(ConfigError, match="scbench"):
        run(recipe(texts, "llama", "next-token", "scbensh"), out=tmp_path)
