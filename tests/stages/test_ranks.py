"""Two processes, as torchrun starts them, make what one process makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pomona.engine import read_metrics
from pomona.ground.files import read_json

pytestmark = [pytest.mark.dist, pytest.mark.slow]
PLAIN = ["-m"]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def start(how: list[str], texts: Path, out: Path, *changes: str) -> subprocess.Popen[str]:
    """`pomona run tiny`, trained with AdamW in float32, whose sums do not depend much on how a batch is cut."""
    words = [f"corpus.sources={texts}", *changes]
    for stage in ("small", "final"):
        words += [f"{stage}.optimizer=adamw", f"{stage}.engine.precision=fp32", f"{stage}.engine.compile=never"]
    words.append("baseline.engine.precision=fp32")
    options = [word for change in words for word in ("--set", change)]
    command = [sys.executable, *how, "pomona", "run", "tiny", "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "150"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)


def finish(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=280)
    assert process.returncode == 0, said
    return said


def folders(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "tiny").glob("[0-9]*"))


def artefact(out: Path, label: str) -> Path:
    (folder,) = (out / "tiny").glob(f"[0-9]*-{label}-{12 * '?'}")
    return folder


def steps(folder: Path) -> list[dict[str, float]]:
    return [record for record in read_metrics(folder / "metrics.jsonl") if "loss" in record]


def close(one: Path, two: Path, *labels: str) -> None:
    """Whether models agree up to the order of float32 sums over ten steps."""
    for label in labels:
        expected = load_file(artefact(one, label) / "model.safetensors")
        for name, value in load_file(artefact(two, label) / "model.safetensors").items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=2e-5, msg=f"{label} {name}")


def test_two_processes_make_what_one_makes(texts: Path, tmp_path: Path) -> None:
    """Catches ranks that train on the same rows, on their own gradients or on other weights, stages that are made
    twice, folders that two processes write into, and a plan that is printed twice."""
    finish(start(PLAIN, texts, tmp_path / "one"))
    said = finish(start(TWO, texts, tmp_path / "two"))
    assert folders(tmp_path / "two") == folders(tmp_path / "one")
    close(tmp_path / "one", tmp_path / "two", "small", "final", "baseline")
    assert said.count("time here") == 1 and said.count("quantize (quantize)") <= 1
    for label in ("small", "final"):
        one, two = (read_json(artefact(tmp_path / out, label) / "ledger.json") for out in ("one", "two"))
        for cost in ("tokens", "flops"):
            assert one["purposes"]["train"][cost] == two["purposes"]["train"][cost]
        for left, right in zip(*(steps(artefact(tmp_path / out, label)) for out in ("one", "two")), strict=True):
            assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
            assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-3), "AdamW would not notice a factor"
    assert not list((tmp_path / "two" / "tiny").glob("*.work")) and not list((tmp_path / "two" / "tiny").glob(".*part"))


def test_a_stopped_run_goes_on(texts: Path, tmp_path: Path) -> None:
    """Catches ranks that leave after different steps, so that one waits for ever and nothing is written."""
    changes = ["small.steps=400", "baseline.steps=5", "baseline.flops_of=[]"]
    process = start(TWO, texts, tmp_path / "runs", *changes)
    begun = tmp_path / "runs" / "tiny"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if any(file.stat().st_size > 500 for file in begun.glob("*-small-*.work/fit/metrics.jsonl")):
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)  # torchrun hands it on
    process.communicate(timeout=60)
    assert process.returncode != 0
    (checkpoint,) = begun.glob("*-small-*.work/fit/checkpoints/step-*")
    assert 0 < int(checkpoint.name.removeprefix("step-")) < 400
    assert "continuing small after step" in finish(start(TWO, texts, tmp_path / "runs", *changes))
