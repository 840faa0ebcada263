"""A run that is killed again and again ends with the weights of one that was left alone."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHANGES = [
    "small.steps=150", "final.steps=150", "small.engine.checkpoint_minutes=0.003",
    "final.engine.checkpoint_minutes=0.003", "baseline.engine.checkpoint_minutes=0.003",
]  # fmt: skip


def start(texts: Path, out: Path) -> subprocess.Popen[bytes]:
    words = [word for change in (f"corpus.sources={texts}", *CHANGES) for word in ("--set", change)]
    command = [sys.executable, "-m", "pomona", "run", "tiny", "--out", str(out), *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def progress(out: Path) -> set[str]:
    """What has been written so far: finished stages and checkpoints."""
    written = [*out.glob("tiny/[0-9]*"), *out.glob("tiny/*.work/fit/checkpoints/step-*")]
    return {str(path) for path in written}


def models(out: Path) -> dict[str, str]:
    """Hash of the weights of every finished model, by folder."""
    found = sorted((out / "tiny").glob("*/model.safetensors"))
    return {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


@pytest.mark.slow
def test_kills_change_nothing(tmp_path: Path) -> None:
    """Catches any state that is not written before it is needed, and folders that are taken for finished ones."""
    draw = random.Random(0)
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(60):
        words = [draw.choice(["apple", "pear", "plum", "quince", "branch", "root", "leaf"]) for _ in range(150)]
        (texts / f"{number}.txt").write_text(f"Text {number} " + " ".join(words))
    whole = start(texts, tmp_path / "whole")
    _, said = whole.communicate()
    assert whole.returncode == 0, said.decode()
    kills = 0
    for _ in range(40):
        before = progress(tmp_path / "killed")
        process = start(texts, tmp_path / "killed")
        while process.poll() is None and progress(tmp_path / "killed") <= before:
            time.sleep(0.02)
        try:
            _, said = process.communicate(timeout=draw.uniform(0.0, 0.6))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, said.decode()
        break
    assert kills > 3
    assert models(tmp_path / "killed") == models(tmp_path / "whole")
    left = [path.name for path in (tmp_path / "killed" / "tiny").iterdir() if path.name.endswith((".work", ".part"))]
    assert not left
