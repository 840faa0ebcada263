"""Watching a run: what its files say while it works, after it has died, and when it is finished."""

from __future__ import annotations

import json
import os
import socket
from importlib import import_module
from pathlib import Path

import pytest

from pomona.ground.errors import ConfigError
from pomona.stages import run
from pomona.stages.watching import FIT, LENGTH, look

NOBODY = 2**22 + 1
"""More than any process number of Linux."""


def begun(folder: Path, owner: str) -> Path:
    """A run of three stages: the second one trains a pilot, half-way, and is writing its next record."""
    (folder / "01-text-aaaaaaaaaaaa").mkdir(parents=True)
    facts = {"note": "3 documents", "stage": {"seconds": 2.5}}
    (folder / "01-text-aaaaaaaaaaaa/MANIFEST.json").write_text(json.dumps({"format": 1, "files": {}, "facts": facts}))
    stages = {"aaaaaaaaaaaa": "text", "bbbbbbbbbbbb": "model", "cccccccccccc": "exam"}
    (folder / "run.json").write_text(json.dumps({"stages": stages}))
    (folder / ".lock").write_text(f"{owner}\n")
    for name, note in (("02-model-bbbbbbbbbbbb", "bbbbbbbbbbbb"), ("02-model-pilot-0.01-dddddddddddd", "bbbbbbbbbbbb")):
        (folder / f"{name}.work").mkdir()
        (folder / f"{name}.work/stage.json").write_text(json.dumps({"hash": name[-12:], "for": note}))
    fit = folder / "02-model-pilot-0.01-dddddddddddd.work/fit"
    fit.mkdir()
    (fit / "length.json").write_text(json.dumps({"steps": 40}))
    records = [
        {"step": 10, "seconds": 5.0, "loss": 4.0, "tokens_per_second": 900.0},
        {"step": 10, "seconds": 5.0, "validation": {"nats_per_token": 4.2}},
        {"step": 20, "seconds": 10.0, "loss": 3.5, "tokens_per_second": 1000.0},
    ]
    (fit / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records) + '{"step": 30, "se')
    return folder


def test_a_run_in_the_middle(tmp_path: Path) -> None:
    """Catches a pilot that is not seen, a torn line that breaks the look, and a wrong estimate of what is left."""
    seen = look(begun(tmp_path / "run", f"{socket.gethostname()} pid {os.getpid()} since 2026-01-01 00:00:00"))
    assert seen.alive and not seen.finished
    text, model, exam = seen.places
    assert (text.state, text.seconds, text.note) == ("made", 2.5, "3 documents")
    assert model.state == "begun" and exam.state == "waiting"
    training = model.training
    assert training is not None and training.label == "model-pilot-0.01"
    assert (training.step, training.steps, training.loss, training.held_out) == (20, 40, 3.5, 4.2)
    assert training.rate == 1000.0 and training.left == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("owner", "alive"),
    [(f"{socket.gethostname()} pid {NOBODY} since then", False), ("elsewhere pid 1 since then", None), ("", False)],
)
def test_whether_somebody_works_on_it(tmp_path: Path, owner: str, alive: bool | None) -> None:
    """Catches a dead process that is taken for a living one, and a judgement on processes of another machine."""
    assert look(begun(tmp_path / "run", owner)).alive is alive


def test_a_finished_run(texts: Path, tmp_path: Path) -> None:
    """Catches files that are written under other names than those that are watched."""
    model = {"shape": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 64}  # fmt: skip
    training = {"model": model, "batch_size": 4, "seq_length": 32, "steps": 3, "validation_tokens": 256}
    stages = [
        {"corpus": {"sources": [str(texts)], "validation": 0.2}},
        {"tokenize": {"vocab_size": 300}},
        {"pretrain": {"name": "model", **training}},
    ]
    made = run({"name": "watched", "stages": stages}, out=tmp_path)
    seen = look(made.folder)
    assert seen.finished and [place.label for place in seen.places] == ["corpus", "tokenize", "model"]
    assert all(place.seconds is not None for place in seen.places)
    with pytest.raises(ConfigError, match=r"run\.json"):
        look(tmp_path)


def test_the_length_is_written_where_it_is_read(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches another file name in the training loop."""
    loop = import_module("pomona.engine.fit")  # the package has a function of this name
    written: list[Path] = []
    keep = loop.write_json
    monkeypatch.setattr(loop, "write_json", lambda path, value: (written.append(path), keep(path, value)))
    test_a_finished_run(texts, tmp_path)
    assert [(path.parent.name, path.name) for path in written] == [(FIT, LENGTH)]
