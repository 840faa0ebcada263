"""Which process is which. Two processes that work together are tested with the stages (marked `dist`)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pomona.ground import ranks


def test_one_process_is_main_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a lone process that waits for others, for example because a cluster sets WORLD_SIZE for a whole job."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (ranks.world_size(), ranks.rank(), ranks.is_main()) == (1, 0, True)
    ranks.wait()
    assert ranks.from_main(lambda: "here") == "here"


def test_torchrun_tells_who_is_who(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the local rank taken for the rank, which makes one main process on every machine."""
    for name, value in (("RANK", "5"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    assert (ranks.world_size(), ranks.rank(), ranks.is_main()) == (8, 5, False)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_one_process_speaks(rank: str) -> None:
    """Catches every line being said once per process."""
    code = "from pomona.ground.console import output, say\nsay('said')\noutput().print('shown')"
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    expected = ("shown\n", "said\n") if rank == "0" else ("", "")
    assert (done.stdout, done.stderr) == expected
