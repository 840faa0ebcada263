"""What stages take over from the models that they are given."""

from __future__ import annotations

from typing import Any

from pomona.stages.fitting import LENGTH, facts_of_edited, length_of, passed_on


def made(length: int) -> dict[str, Any]:
    """A model that was trained on sequences of 512 tokens, then of `length`."""
    return {"facts": {"read": {"data": "d", "seed": 0, "runs": [[10, 4, 512], [5, 4, length]]}}}


def test_models_are_read_as_they_were_trained() -> None:
    """Catches a model that is scored beyond the positions that it was trained on, where it is worse untouched."""
    assert length_of(None, [made(128)]) == 128
    assert length_of(None, [made(128), made(64), {"seq_length": 96}, {}]) == 64
    assert length_of(32, [made(128)]) == 32
    assert length_of(None, [{}, {"facts": {}}]) == LENGTH


def test_an_edit_passes_it_on() -> None:
    """Catches a pruned or grown model that forgets how it was trained."""
    assert passed_on(made(128))["seq_length"] == 128 and passed_on({"seq_length": 64})["seq_length"] == 64
    facts = {**made(128)["facts"], "objective": {"method": "next-token"}, "quality": {"nats_per_token": 3.0}}
    assert set(facts_of_edited(facts)) == {"read", "objective"}
