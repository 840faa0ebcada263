"""A whole life at toy size: the shipped `tiny` recipe on a small text, and what must hold of everything it makes."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pomona.data import TokenStream
from pomona.engine import Ledger
from pomona.ground.errors import ConfigError, TrainingDiverged, TrainingStopped
from pomona.ground.files import read_json
from pomona.stages import Run, call, load, run, train
from pomona.stages.base import ledger_flops
from pomona.stages.runner import prepare
from pomona.stages.store import Store


@pytest.fixture(scope="module")
def life(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The finished run."""
    return run("tiny", [f"corpus.sources={texts}"], out=tmp_path_factory.mktemp("runs"))


def weights(folder: Path) -> str:
    """A hash of a model's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_the_export_loads_without_pomona(life: Run) -> None:
    """Catches a folder that transformers cannot load, or that computes something else than what was made."""
    export = life["export"].folder
    assert (export / "README.md").read_text().startswith("---\n")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(export), AutoTokenizer.from_pretrained(export)
    inputs = tokenizer("apple pear", return_tensors="pt", return_token_type_ids=False)
    made = AutoModelForCausalLM.from_pretrained(life["small-4bit"].folder)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, made(**inputs).logits)


def test_costs_are_equal_and_complete(life: Run) -> None:
    """Catches a baseline that gets more or less than the recipe cost, and a sweep that is charged to the budget."""
    recipe = sum(ledger_flops(life[name].ledger()) for name in ("small", "final", "small-4bit"))
    baseline = life["baseline"].ledger()
    step = ledger_flops(baseline) / baseline["steps"]
    assert abs(ledger_flops(baseline) - recipe) <= step
    assert baseline["purposes"]["sweep"]["flops"] > 0
    swept = life["baseline"].facts["sweep"]
    assert life["baseline"].facts["learning_rate"] == float(min(swept, key=swept.get))


def test_growth_and_data_go_on(life: Run) -> None:
    """Catches growth that does not reach the folder, and text that is read twice while there is unread text."""
    assert read_json(life["final"].folder / "config.json")["num_hidden_layers"] == 2
    assert life["final"].facts["read"]["runs"] == [[10, 4, 32], [10, 4, 32]]
    assert life["final"].facts["quality"]["nats_per_token"] < life["small"].facts["quality"]["nats_per_token"]


def test_the_report_tells_the_story(life: Run) -> None:
    """Catches a report without an arm, a model or a sample."""
    data = read_json(life["report"].folder / "report.json")
    assert [(arm["name"], arm["role"]) for arm in data["arms"]] == [("tiny", "recipe"), ("baseline", "baseline")]
    assert [stage["name"] for stage in data["arms"][0]["stages"]] == ["small", "grown", "final", "small-4bit"]
    assert [row["name"] for row in data["models"]] == ["final", "small-4bit", "baseline"]
    assert data["samples"] and "steps: 10" in data["recipe"]
    assert (life["report"].folder / "report.html").stat().st_size > 10_000


def test_a_second_run_makes_nothing(life: Run, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches real stages whose hash changes from run to run."""
    monkeypatch.setattr("pomona.stages.train.fit", None)
    again = run("tiny", [f"corpus.sources={texts}"], out=life.folder.parent)
    assert {name: each.folder for name, each in again.artefacts.items()} == {
        name: each.folder for name, each in life.artefacts.items()
    }


def small(life: Run) -> dict[str, Any]:
    """The values of the stage `small`."""
    stages = [stage for stage in load("tiny").raw["stages"] if isinstance(stage, dict)]
    (stage,) = [stage["pretrain"] for stage in stages if stage.get("pretrain", {}).get("name") == "small"]
    return {key: value for key, value in stage.items() if key != "name"}


def test_recipe_and_direct_call_agree(life: Run, tmp_path: Path) -> None:
    """Catches the doors leading to different weights."""
    made = call("pretrain", {**small(life), "data": str(life["tokenize"].folder)}, tmp_path / "small")
    assert weights(made.folder) == weights(life["small"].folder)
    grown = call("grow", {"from": str(made.folder), "factor": 2}, tmp_path / "grown")
    assert weights(grown.folder) == weights(life["grown"].folder)


def test_a_stopped_training_ends_with_the_same_weights(
    life: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a resume that repeats or skips a step, or that ends in another model."""
    batch, stopped = TokenStream.batch, []

    def interrupt(self: TokenStream, step: int, *rest: Any, **options: Any) -> Any:
        if step == 5 and not stopped:
            stopped.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, step, *rest, **options)

    monkeypatch.setattr(TokenStream, "batch", interrupt)
    values = {**small(life), "data": str(life["tokenize"].folder)}
    with pytest.raises(TrainingStopped, match="repeat the same command"):
        call("pretrain", values, tmp_path / "small")
    assert not (tmp_path / "small").exists() and stopped
    made = call("pretrain", values, tmp_path / "small")
    assert weights(made.folder) == weights(life["small"].folder)
    assert made.ledger()["steps"] == 10


def test_a_sweep_remembers_what_diverged(life: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches pilots that are repeated at every resume because they left no artefact, and their cost being lost."""
    started: list[str] = []
    fit = train.fit

    def watched(*given: Any, title: str, **options: Any) -> Any:
        started.append(title)
        if title.endswith("pilot-0.5"):
            error = TrainingDiverged("the loss is not finite")
            error.spent = {**Ledger().to_dict(), "purposes": {"train": {"flops": 1e15, "seconds": 1.0, "tokens": 1}}}
            raise error
        if started.count("small") == 1 and title == "small":
            raise TrainingStopped("stopped")
        return fit(*given, title=title, **options)

    monkeypatch.setattr(train, "fit", watched)
    values = {
        **small(life),
        "data": str(life["tokenize"].folder),
        "sweep": {"learning_rate": [0.01, 0.5], "pilot": 0.3},
    }
    with pytest.raises(TrainingStopped):
        call("pretrain", values, tmp_path / "small")
    made = call("pretrain", values, tmp_path / "small")
    assert started == ["small-pilot-0.01", "small-pilot-0.5", "small", "small"]
    assert made.facts["sweep"]["0.5"] is None and made.facts["learning_rate"] == 0.01
    assert made.ledger()["purposes"]["sweep"]["flops"] > 1e15


def problems_of(text: str, tmp_path: Path) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        recipe = load(file)
        prepare(recipe, Store(tmp_path / "runs" / recipe.name))
    assert not (tmp_path / "runs").exists(), "nothing may be made"
    return str(caught.value)


def test_the_plan_finds_what_does_not_fit(texts: Path, tmp_path: Path) -> None:
    """Catches wrong combinations that would only fail after hours, and problems without their line."""
    message = problems_of(
        f"""name: wrong
stages:
  - corpus: {texts}
  - tokenize: {{vocab_size: 512}}
  - pretrain:
      name: long
      model: {{shape: llama, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
              max_position_embeddings: 64}}
      seq_length: 128
      steps: 1
  - pretrain:
      name: few
      model: {{shape: llama, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, vocab_size: 100}}
      steps: 1
  - pretrain:
      name: unknown
      model: {{shape: llama, hidden_sizes: 32}}
      steps: 1
  - pretrain:
      name: blind
      model: {{shape: llama, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}}
      objective: masked-lm
      steps: 1
  - grow: {{from: long, order: [0, 7]}}
  - quantize: {{from: long, skip: [fnn], seq_length: 256}}
  - pretrain:
      name: short
      model: {{shape: llama, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}}
      schedule: {{method: warmup-cosine, warmup: 50}}
      steps: 10
  - pretrain:
      name: pilots
      model: {{shape: llama, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}}
      schedule: {{method: warmup-cosine, warmup: 50}}
      sweep: {{learning_rate: [0.1, 0.2], pilot: 0.1}}
      steps: 100
""",
        tmp_path,
    )
    for expected in (
        "recipe.yaml:9 stages.2.pretrain.seq_length: 128 tokens are more than the model's 64 positions",
        "stages.3.pretrain.data: the tokens need a vocabulary of 512, the model has 100",
        "recipe.yaml:17 stages.4.pretrain.model.hidden_sizes: llama has no field 'hidden_sizes'",
        "did you mean 'hidden_size'",
        "recipe.yaml:21 stages.5.pretrain.model: llama cannot be trained with masked-lm",
        "stages.6.grow.method",
        "names blocks that do not exist",
        "stages.7.quantize.method: no weight of this model has the role 'fnn'",
        "stages.7.quantize.seq_length: 256 tokens are more than the model's 64 positions",
        "stages.8.pretrain.schedule: warmup-cosine: the phases are longer than the run",
        "stages.9.pretrain.schedule: warmup-cosine: the phases are longer than the run",
    ):
        assert expected in message, message


def test_values_of_training_are_checked(texts: Path, tmp_path: Path) -> None:
    """Catches budgets that contradict each other, sources that are not there, and wrong parameters of methods."""
    message = problems_of(
        """name: wrong
stages:
  - corpus: nowhere/
  - tokenize: {vocab_size: 512}
  - pretrain:
      model: {shape: llama}
      steps: 3
      tokens: 1000
  - pretrain:
      name: other
      model: {shape: llama}
      optimizer: {method: conda, learning_rat: 1}
      engine: {clipp: 1}
      tokens: 1e6
""",
        tmp_path,
    )
    assert "a budget is one of steps, tokens, flops, flops_of; found steps and tokens" in message
    assert "recipe.yaml:12 stages.3.pretrain.optimizer.learning_rat: unknown key" in message
    assert "recipe.yaml:13 stages.3.pretrain.engine.clipp: unknown key 'clipp'" in message and "'clip'" in message
    (tmp_path / "only").mkdir()
    missing = problems_of("name: wrong\nstages:\n  - corpus: nowhere/\n", tmp_path / "only")
    assert "recipe.yaml:3 stages.0.corpus" in missing and "nowhere" in missing
