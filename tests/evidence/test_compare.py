"""Recipes on a user's own text: the same budget, the same text, and only the line that a recipe ends in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pomona.evidence.budget import Budget, parse_budget
from pomona.evidence.compare import common_corpus, compare, cost_of, described, fitted, line_of, names_of, planned
from pomona.evidence.table import Table, Trial
from pomona.ground.errors import ConfigError
from pomona.stages import load

MODEL = {
    "shape": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
COMMON: dict[str, Any] = {"batch_size": 4, "seq_length": 32, "validation_tokens": 512}


def recipe(name: str, texts: Path, *more: Any, **optimizer: Any) -> dict[str, Any]:
    """Corpus, tokens, a small model; more stages after it."""
    stages = [
        {"corpus": {"sources": [str(texts)], "validation": 0.3}},
        {"tokenize": {"vocab_size": 300}},
        {"pretrain": {"name": "small", "model": MODEL, "optimizer": optimizer, "steps": 10, **COMMON}},
    ]
    return {"name": name, "stages": [*stages, *more]}


def test_budgets() -> None:
    """Catches minutes taken for months, and a budget that is none."""
    assert parse_budget("90s") == Budget(90.0, "seconds") == parse_budget("1.5m")
    assert parse_budget("2 h") == Budget(7200.0, "seconds")
    assert parse_budget("1e15FLOPs") == Budget(1e15, "flops")
    for wrong in ("ten minutes", "-3m", "0s", "5", "1e15 tokens", ""):
        with pytest.raises(ConfigError, match="is not a budget"):
            parse_budget(wrong)


def test_a_recipe_ends_in_its_own_line(texts: Path, tmp_path: Path) -> None:
    """Catches a comparison with the recipe's baseline, and stages that are run for nothing."""
    whole = recipe(
        "r",
        texts,
        {"grow": {"method": "g-stack", "factor": 2}},
        {"continue": {"name": "final", "steps": 5, **COMMON}},
        {"pretrain": {"name": "baseline", "model": MODEL, "flops_of": ["small", "final"], **COMMON}},
        {"examine": {"tokens": 512, "seq_length": 32}},
        "report",
        method="adamw",
    )
    end, values = line_of(load(whole), tmp_path)
    assert end == "final"
    assert [next(iter(value)) for value in values] == ["corpus", "tokenize", "pretrain", "grow", "continue"]
    alone, _ = line_of(load(recipe("r", texts, method="adamw")), tmp_path)
    assert alone == "small"


@pytest.mark.parametrize("flops", [2e9, 2e10])
def test_stretched_to_the_budget(flops: float, texts: Path, tmp_path: Path) -> None:
    """Catches a recipe of several stages that gets more or less than another, and stages stretched unevenly."""
    whole = recipe(
        "r",
        texts,
        {"grow": {"method": "g-stack", "factor": 2}},
        {"continue": {"name": "final", "tokens": 2560, **COMMON}},
        method="adamw",
    )
    _, values = line_of(load(whole), tmp_path)
    budget = Budget(flops, "flops")
    found = fitted("r", values, budget, tmp_path)
    assert cost_of(planned("r", found, budget, tmp_path), budget) == pytest.approx(flops, rel=0.05)
    small, final = found[2]["pretrain"]["steps"], found[4]["continue"]["tokens"] / 128
    assert small / final == pytest.approx(10 / 20, rel=0.1)


def test_what_cannot_be_compared(texts: Path, tmp_path: Path) -> None:
    """Catches models judged on different text, and budgets that leave nothing to train on."""
    one, other = recipe("one", texts, method="adamw"), recipe("other", texts, method="adamw")
    other["stages"][0] = {"corpus": {"sources": [str(texts)], "validation": 0.1}}
    found = {name: load(values) for name, values in (("one", one), ("other", other))}
    with pytest.raises(ConfigError, match="judged on different text"):
        common_corpus(found, None)
    mine = common_corpus(found, "mine")
    assert [source.path for source in mine.sources] == ["mine"] and mine.validation == 0.3
    with pytest.raises(ConfigError, match="needs two recipes"):
        compare([one], budget="1e9flops")  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="is not a budget"):
        compare([one, one], budget="soon")  # type: ignore[list-item]
    assert names_of([found["one"], found["one"], found["other"]]) == ["one-1", "one-2", "other"]


def test_two_recipes(texts: Path, tmp_path: Path) -> None:
    """Catches a comparison that does not run on a folder of texts, or that finds the worse recipe better."""
    good = tmp_path / "good.json"
    good.write_text(json.dumps(recipe("good", Path("elsewhere"), method="adamw", learning_rate=0.01)))
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(recipe("bad", Path("elsewhere"), method="adamw", learning_rate=1e-6)))
    found = compare([good, bad], budget="6e9flops", seeds=2, data=texts, out=tmp_path / "out")
    assert found.table.arms == ["good", "bad"] and found.table.seeds == [0, 1]
    assert found.table.unequal() == "" and found.table.flops("good") > 0
    assert found.table.mean("good", "bits per byte") < found.table.mean("bad", "bits per byte")
    assert found.conclusion.startswith("good ")
    saved = json.loads((tmp_path / "out/comparison.json").read_text())
    assert saved["conclusion"] == found.conclusion and len(saved["trials"]) == 4
    pair = described(Table((Trial("a", 0, {"x": 1.0}), Trial("b", 0, {"x": 2.0}))).against("a", "b", "x"))
    assert pair["mean"] == -1.0 and pair["p"] is None
    assert "<svg" in (tmp_path / "out/comparison.svg").read_text()
