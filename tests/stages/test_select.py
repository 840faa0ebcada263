"""`select`: scores are made once for each model, kept, and what they cost is charged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pomona.data import Tokens
from pomona.ground.errors import ConfigError
from pomona.stages import Run, load, run, score
from pomona.stages.runner import prepare
from pomona.stages.store import Store

LLAMA = {"shape": "llama", "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
SHARED = {"batch_size": 4, "seq_length": 32, "steps": 4, "validation_tokens": 512}


def recipe(texts: Path, *selects: dict[str, Any], also: tuple[Any, ...] = ()) -> dict[str, Any]:
    models = [
        {"pretrain": {"name": name, "model": {**LLAMA, "hidden_size": size}, "data": "tokenize", **SHARED}}
        for name, size in (("large", 32), ("small", 16))
    ]
    stages = [
        {"corpus": {"sources": [str(texts)], "validation": 0.2}},
        {"tokenize": {"vocab_size": 300}},
        *models,
        *({"select": {"chunk_length": 20, "data": "tokenize", **select}} for select in selects),
        *also,
    ]
    return {"name": "life", "stages": stages}


BOTH = {"teacher": "large", "reference": "small"}


def made(texts: Path, tmp_path: Path, *selects: dict[str, Any], **more: Any) -> Run:
    return run(recipe(texts, *selects, **more), out=tmp_path / "runs")


def test_a_selection_is_a_corpus_to_train_on(texts: Path, tmp_path: Path) -> None:
    """Catches a folder that training cannot read, other chunks than those of highest score, and held-out text that is
    selected too."""
    student = {"pretrain": {"name": "student", "model": {**LLAMA, "hidden_size": 16}, "data": "half", **SHARED}}
    found = made(texts, tmp_path, {"name": "half", **BOTH}, also=(student,))
    tokens, whole = Tokens.open(found["half"].folder), Tokens.open(found["tokenize"].folder)
    folder = found["half"].folder
    scores, kept = np.fromfile(folder / "scores.f64"), np.fromfile(folder / "kept.i64", dtype=np.int64)
    nats = {role: np.fromfile(folder / f"{role}.f32", dtype=np.float32) for role in BOTH}
    np.testing.assert_array_equal(scores, nats["reference"].astype(float) - nats["teacher"])
    assert len(kept) == len(scores) // 2 == found["half"].facts["kept"]
    assert scores[kept].min() >= np.delete(scores, kept).max()
    wanted = np.concatenate([whole.train.tokens[start * 21 : start * 21 + 21] for start in kept])
    assert np.array_equal(np.asarray(tokens.train.tokens), wanted)
    assert tokens.validation.count == whole.validation.count and found["student"].facts["steps"] == 4


def test_scores_are_made_once(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches scoring again for another ratio, another partner or another method, and costs that vanish with reuse."""
    found = made(texts, tmp_path, {"name": "half", **BOTH})
    spent = found["half"].ledger()["purposes"]["score"]
    seen = Tokens.open(found["tokenize"].folder).train.count
    assert spent["tokens"] > 2 * seen and spent["flops"] > 0

    def refuse(*given: Any) -> Any:
        raise AssertionError("scored again")

    monkeypatch.setattr(score, "in_blocks", refuse)
    again = made(
        texts,
        tmp_path,
        {"name": "half", **BOTH},
        {"name": "fifth", "ratio": 0.2, **BOTH},
        {"name": "easy", "method": "perplexity-filter", "teacher": "large"},
        {"name": "lot", "method": "random-subset"},
    )
    assert again["fifth"].ledger()["purposes"]["score"] == spent
    assert again["easy"].ledger()["purposes"]["score"]["flops"] < spent["flops"]
    assert "score" not in again["lot"].ledger()["purposes"]
    kept = {
        name: set(np.fromfile(again[name].folder / "kept.i64", dtype=np.int64)) for name in ("half", "fifth", "easy")
    }
    assert kept["fifth"] < kept["half"] != kept["easy"]


def test_a_killed_score_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that begins anew, and blocks in the wrong order."""
    monkeypatch.setattr(score, "BLOCK", 10)
    asked: list[range] = []

    def nats(numbers: range) -> Any:
        asked.append(numbers)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return np.array(numbers, dtype=np.float32)

    with pytest.raises(KeyboardInterrupt):
        score.in_blocks(tmp_path, 34, nats)
    assert score.in_blocks(tmp_path, 34, nats).tolist() == list(range(34))
    assert [numbers.start for numbers in asked] == [0, 10, 20, 20, 30]


def test_everything_is_the_corpus(texts: Path, tmp_path: Path) -> None:
    """Catches a tail that is lost, and documents that are cut at chunks; all text comes out as it went in."""
    found = made(texts, tmp_path, {"name": "all", "method": "random-subset", "ratio": 1.0, "texts": True})
    tokens, whole = Tokens.open(found["all"].folder), Tokens.open(found["tokenize"].folder)
    assert np.array_equal(np.asarray(tokens.train.tokens), np.asarray(whole.train.tokens))
    assert np.array_equal(tokens.train.document_starts, whole.train.document_starts)
    from pomona.data import Corpus

    lines = (found["all"].folder / "kept.jsonl").read_text(encoding="utf-8").splitlines()
    wanted = [document.text for document in Corpus.open(found["corpus"].folder).documents("train")]
    assert [json.loads(line)["text"] for line in lines] == wanted


def test_problems_are_known_beforehand(texts: Path, tmp_path: Path) -> None:
    """Catches models that are missing, idle or unfit, before anything is trained or scored."""
    for select, problem in (
        ({"teacher": "large"}, "miniplm needs a reference"),
        ({"method": "random-subset", "teacher": "large"}, "random-subset does not ask a teacher"),
        ({**BOTH, "chunk_length": 65}, "chunks are longer than the teacher's positions"),
        ({**BOTH, "ratio": 0}, "ratio"),
    ):
        with pytest.raises(ConfigError, match=problem):
            prepare(load(recipe(texts, select)), Store(tmp_path / "plan"), probe=False)


def test_models_of_other_tokens_are_refused(texts: Path, tmp_path: Path) -> None:
    """Catches likelihoods of what the numbers happen to mean to another tokenizer."""
    first = made(texts, tmp_path)
    values = recipe(
        texts, {"name": "half", "data": "other", "teacher": str(first["large"].folder), "reference": "small"}
    )
    values["stages"].insert(2, {"tokenize": {"name": "other", "vocab_size": 290}})
    with pytest.raises(ConfigError, match="reads other tokens"):
        run(values, out=tmp_path / "others")


def test_a_reference_as_good_as_the_teacher_is_named(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches silence about a comparison that is noise."""
    made(texts, tmp_path, {"name": "half", "teacher": "small", "reference": "small"})
    said = " ".join(capsys.readouterr().err.split())
    assert "trained on the very tokens" in said, said
    assert "no better than the reference" in said, said
