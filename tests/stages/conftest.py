from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from pomona.stages import verbs
from tests.stages import fake_stages

WORDS = re.findall(
    r"\w+", "apple pear plum quince medlar branch root leaf graft bud sap bark orchard ladder basket rain frost"
)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of short, different texts."""
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(0)
    for number in range(40):
        words = [draw.choice(WORDS) for _ in range(150)]
        (folder / f"{number:02d}.txt").write_text(f"Text {number}. " + " ".join(words) + ".\n")
    return folder


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the fake stages known; gives the log of what worked."""
    for verb, target in fake_stages.FAKE_VERBS.items():
        monkeypatch.setitem(verbs.VERBS, verb, target)
    fake_stages.LOG.clear()
    fake_stages.STOP.clear()
    return fake_stages.LOG
