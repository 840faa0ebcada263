"""A schedule without end: each run delivers an annealed model, the next dataset goes on as if it had not annealed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from pomona.data import TokenStream
from pomona.engine import read_metrics
from pomona.ground.errors import ConfigError, TrainingStopped
from pomona.stages import Artefact, call, load
from pomona.stages.runner import prepare
from pomona.stages.store import Store

MODEL = {"shape": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 2, "max_position_embeddings": 32, "tie_word_embeddings": True}  # fmt: skip
SHAPE = {"batch_size": 4, "seq_length": 32, "validation_tokens": 512}
PHASES = {"method": "infinite-lr", "warmup": 2, "cooldown": 2}


@pytest.fixture(scope="module")
def tokens(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("main-line")
    call("corpus", {"sources": [str(texts)], "validation": 0.2}, folder / "corpus")
    return call("tokenize", {"from": str(folder / "corpus"), "vocab_size": 300}, folder / "tokens").folder


def begin(tokens: Path, out: Path, **values: Any) -> Artefact:
    return call("pretrain", {"data": str(tokens), "model": MODEL, **SHAPE, **values}, out)


def go_on(tokens: Path, source: Artefact, out: Path, **values: Any) -> Artefact:
    return call("continue", {"data": str(tokens), "from": str(source.folder), **SHAPE, **values}, out)


def weights(artefact: Artefact) -> dict[str, Tensor]:
    return load_file(artefact.folder / "model.safetensors")


def same(first: Artefact, second: Artefact) -> bool:
    return all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "conda"])
def test_the_next_dataset_does_not_notice_the_annealing(tokens: Path, tmp_path: Path, optimizer: str) -> None:
    """Catches weights, moments, rate or data that come from the annealed branch: six steps, a branch that anneals, and
    six more steps must be the twelve steps of one run, bit for bit; a third dataset likewise."""
    shared = {"optimizer": optimizer}
    first = begin(tokens, tmp_path / "first", steps=10, schedule={**PHASES, "anneal": 4}, **shared)
    second = go_on(tokens, first, tmp_path / "second", steps=6, schedule={**PHASES, "anneal": 0}, **shared)
    whole = begin(tokens, tmp_path / "whole", steps=12, schedule={**PHASES, "anneal": 0}, **shared)
    assert same(second, whole) and not same(first, whole)
    assert second.facts["read"]["runs"] == [[6, 4, 32], [6, 4, 32]]
    third = go_on(tokens, second, tmp_path / "third", steps=4, schedule={**PHASES, "anneal": 2}, **shared)
    branch = begin(tokens, tmp_path / "branch", steps=16, schedule={**PHASES, "anneal": 2}, **shared)
    assert same(third, branch)


def test_the_annealed_model_is_what_is_delivered(tokens: Path, tmp_path: Path) -> None:
    """Catches a folder whose model is the one before annealing, or that transformers cannot load any more."""
    made = begin(tokens, tmp_path / "made", steps=10, schedule={**PHASES, "anneal": 4})
    loaded = AutoModelForCausalLM.from_pretrained(made.folder).state_dict()
    before = load_file(made.folder / "main-line" / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(loaded[name], weights(made)[name]) and not torch.equal(loaded[name], before[name])
    assert made.facts["main_line"]["schedule"]["counter"] == 6
    exported = call("export", {"from": str(made.folder)}, tmp_path / "exported")
    assert not (exported.folder / "main-line").exists()


def test_from_the_annealed_model_on_request(tokens: Path, tmp_path: Path) -> None:
    """Catches an option that changes nothing: with a rate of almost nothing the model stays what it starts from."""
    first = begin(tokens, tmp_path / "first", steps=10, schedule={**PHASES, "anneal": 4})
    schedule = {**PHASES, "start": "annealed", "anneal": 0}
    still = {"optimizer": {"method": "adamw", "learning_rate": 1e-12}, "steps": 1}
    second = go_on(tokens, first, tmp_path / "second", schedule=schedule, **still)
    for name, value in weights(second).items():
        torch.testing.assert_close(value, weights(first)[name], rtol=0.0, atol=1e-10)


def test_a_run_killed_while_annealing_keeps_the_main_line(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a resume after the fork that has nothing to keep, or keeps a later state."""
    values = {"steps": 10, "schedule": {**PHASES, "anneal": 4}}
    whole = begin(tokens, tmp_path / "whole", **values)
    batch, killed = TokenStream.batch, []

    def interrupt(self: TokenStream, step: int, *rest: Any, **options: Any) -> Any:
        if step == 8 and not killed:
            killed.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, step, *rest, **options)

    monkeypatch.setattr(TokenStream, "batch", interrupt)
    with pytest.raises(TrainingStopped):
        begin(tokens, tmp_path / "cut", **values)
    cut = begin(tokens, tmp_path / "cut", **values)
    assert killed and same(cut, whole)
    states = [load_file(each.folder / "main-line" / "optimizer.safetensors") for each in (cut, whole)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_breaks_in_the_main_line_are_refused(texts: Path, tmp_path: Path) -> None:
    """Catches a main line that silently gets another rate, other moments or another optimizer; all in the plan."""
    schedule = {**PHASES, "anneal": 4}
    stages: list[Any] = [
        {"corpus": str(texts)},
        {"tokenize": {"vocab_size": 300}},
        {"pretrain": {"name": "first", "model": MODEL, "steps": 10, "schedule": schedule}},
        {"continue": {"name": "a", "from": "first", "steps": 9, "schedule": schedule, "optimizer": "conda"}},
        {"continue": {"name": "b", "from": "first", "steps": 9, "schedule": {**schedule, "constant_ratio": 0.6}}},
        {"continue": {"name": "c", "from": "first", "steps": 9, "schedule": schedule,
                      "sweep": {"learning_rate": [0.1, 0.2], "pilot": 1.0}}},
        {"continue": {"name": "d", "from": "first", "steps": 3, "schedule": schedule}},
        {"continue": {"name": "fine", "from": "first", "steps": 9, "optimizer": "conda",
                      "schedule": {**schedule, "start": "annealed"}}},
        {"continue": {"name": "another", "from": "first", "steps": 9, "optimizer": "conda"}},
    ]  # fmt: skip
    for stage in stages[2:]:
        next(iter(stage.values())).update(SHAPE)
    with pytest.raises(ConfigError) as caught:
        prepare(load({"name": "line", "stages": stages}), Store(tmp_path / "line"))
    message = str(caught.value)
    assert "4 problems" in message, message
    assert "stages.3.continue.optimizer: the main line that is continued was trained with" in message
    assert "method adamw" in message and "`start: annealed`" in message
    assert "stages.4.continue.schedule: infinite-lr cannot change the rate" in message
    assert "stages.5.continue.sweep: the main line that is continued keeps its learning rate" in message
    assert "stages.6.continue.schedule: infinite-lr: the phases are longer than the run" in message


def test_a_swept_rate_is_inherited(tokens: Path, tmp_path: Path) -> None:
    """Catches a continued main line at the default rate where a sweep had found another."""
    sweep = {"learning_rate": [0.02, 0.03], "pilot": 0.5}
    schedule = {**PHASES, "anneal": 4}
    first = begin(tokens, tmp_path / "first", steps=20, schedule=schedule, sweep=sweep)
    second = go_on(tokens, first, tmp_path / "second", steps=6, schedule=schedule)
    assert second.facts["learning_rate"] == first.facts["learning_rate"] in sweep["learning_rate"]


def test_rewarming_goes_on_with_moments_and_rate(tokens: Path, tmp_path: Path) -> None:
    """Catches moments that are dropped, weights of another step, and the rate of the run before in the place of the
    stage's: two runs at the last rate of the first are one run in all but their place in the data."""
    flat = {"method": "rewarm", "warmup": 0, "min_ratio": 1.0}
    first = begin(tokens, tmp_path / "first", steps=6, schedule=flat)
    second = go_on(tokens, first, tmp_path / "second", steps=6, schedule={"method": "rewarm", "peak": 0})
    whole = begin(tokens, tmp_path / "whole", steps=12, schedule=flat)
    assert same(second, whole)
    new = {**flat, "moments": "new"}
    assert not same(go_on(tokens, first, tmp_path / "new", steps=6, schedule=new), whole)
    twice = {**flat, "peak": 2.0}
    assert not same(go_on(tokens, first, tmp_path / "twice", steps=6, schedule=twice), whole)


def test_a_line_of_another_schedule_is_not_continued(tokens: Path, tmp_path: Path) -> None:
    """Catches one schedule reading another's state."""
    first = begin(tokens, tmp_path / "first", steps=10, schedule={**PHASES, "anneal": 4})
    second = go_on(tokens, first, tmp_path / "second", steps=3, schedule={"method": "rewarm"})
    third = go_on(tokens, second, tmp_path / "third", steps=6, schedule={**PHASES, "anneal": 0})
    assert third.facts["main_line"]["schedule"]["offset"] == 6


def test_watched_text(tokens: Path, texts: Path, tmp_path: Path) -> None:
    """Catches scores of the wrong text along the way, and another tokenizer's tokens being scored as this one's."""
    made = begin(tokens, tmp_path / "watching", steps=4, engine={"evaluate_every": 2}, watch=[str(tokens)])
    records = [record for record in read_metrics(made.folder / "metrics.jsonl") if "validation" in record]
    assert len(records) == 2
    assert all(list(record["watched"].values()) == [record["validation"]] for record in records)
    plain = begin(tokens, tmp_path / "plain", steps=4, engine={"evaluate_every": 2})
    assert same(made, plain)
    corpus = call("corpus", {"sources": [str(texts)], "validation": 0.2}, tmp_path / "corpus")
    other = call("tokenize", {"from": str(corpus.folder), "vocab_size": 280}, tmp_path / "other")
    with pytest.raises(ConfigError, match="another tokenizer"):
        begin(tokens, tmp_path / "refused", steps=4, watch=[str(other.folder)])
