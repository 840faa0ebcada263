from __future__ import annotations

import pytest

from pomona.stages import verbs
from tests.stages import fake_stages


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the fake stages known; gives the log of what worked."""
    for verb, target in fake_stages.FAKE_VERBS.items():
        monkeypatch.setitem(verbs.VERBS, verb, target)
    fake_stages.LOG.clear()
    fake_stages.STOP.clear()
    return fake_stages.LOG
