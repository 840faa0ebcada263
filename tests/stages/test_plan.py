"""What the plan says about time: every stage that can know does, and compilation is part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pomona.stages import load
from pomona.stages.plan import Plan, show
from pomona.stages.probe import COMPILED, compiled_seconds
from pomona.stages.runner import prepare
from pomona.stages.store import Store

MODEL = {"shape": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def plan_of(texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> Plan:
    """The plan of a small recipe on a machine that trains 1000 tokens a second."""
    monkeypatch.setattr("pomona.stages.probe.training_rate", lambda *given: 1000.0)
    stages = [
        {"corpus": texts},
        {"tokenize": {"vocab_size": 300}},
        {"pretrain": {"model": MODEL, "batch_size": 10, "seq_length": 100, **values}},
    ]
    return prepare(load({"name": "plan", "stages": stages}), Store(tmp_path / "plan"))[1]


def test_corpus_and_tokenizer_are_estimated(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a plan that knows the minutes of everything but what comes first."""
    corpus, tokenize, train = plan_of(str(texts), tmp_path, monkeypatch, steps=50).entries
    assert corpus.seconds is not None and 1.0 <= corpus.seconds < 2.0
    assert tokenize.seconds is not None and 0.0 < tokenize.seconds < 1.0
    assert train.seconds == pytest.approx(50.0)


def test_compilation_is_part_of_the_time(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches minutes that ignore `compile: always`, its cost or its gain, and a plan that does not say so."""
    plan = plan_of(str(texts), tmp_path, monkeypatch, steps=800, engine={"compile": "always"})
    assert plan.entries[2].seconds == pytest.approx(COMPILED.seconds + 800 / COMPILED.speedup)
    sweep = {"learning_rate": [0.1, 0.2], "pilot": 0.25}
    swept = plan_of(str(texts), tmp_path, monkeypatch, steps=800, engine={"compile": "always"}, sweep=sweep)
    expected = COMPILED.seconds + 2 * COMPILED.again + 1200 / COMPILED.speedup
    assert swept.entries[2].seconds == pytest.approx(expected)
    show(plan, None, tmp_path)
    assert f"compiled: {COMPILED.seconds:g} s, after which a step is" in capsys.readouterr().err


def test_a_measured_decision_is_never_worse_than_none() -> None:
    """Catches `auto` that compiles short runs, or is expected to compile at a loss."""
    assert compiled_seconds(1000.0, 1, "never") == 1000.0
    assert compiled_seconds(60.0, 1, "auto") == 60.0
    assert compiled_seconds(1000.0, 1, "auto") == compiled_seconds(1000.0, 1, "always") < 1000.0
    assert compiled_seconds(100.0, 30, "auto") == 100.0 < compiled_seconds(100.0, 30, "always")
