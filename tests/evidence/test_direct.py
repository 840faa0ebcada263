"""Cards whose arms are no recipes: every arm at every seed once, again only when the code has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pomona.evidence import run
from pomona.evidence.cards.ptmtorrent import CARD
from pomona.evidence.run import run_card


def test_arms_and_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an arm or seed that is left out or mixed up, work that is repeated, and old work kept for new code."""
    done: list[tuple[str, int]] = []

    def attempt(scale: str, arm: str, seed: int, folder: Path) -> dict[str, float]:
        assert not list(folder.iterdir())
        (folder / "left").touch()
        done.append((arm, seed))
        return {metric.name: seed + (arm == "ptmtorrent") / 2 for metric in CARD.metrics}

    card = replace(CARD, attempt=attempt)
    result = run_card(card, "tiny", 2, work=tmp_path / "work", results=tmp_path)
    assert sorted(done) == [("config.json", 0), ("config.json", 1), ("ptmtorrent", 0), ("ptmtorrent", 1)]
    assert result.table.values("ptmtorrent", "field F1") == [0.5, 1.5]
    run_card(card, "tiny", 3, work=tmp_path / "work", results=tmp_path)
    assert len(done) == 6
    monkeypatch.setattr(run, "fingerprint", lambda modules: "other")
    run_card(card, "tiny", 2, work=tmp_path / "work", results=tmp_path)
    assert len(done) == 10
