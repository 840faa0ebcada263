"""Rules of the cards of objectives: on numbers that speak, and on those that do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pomona.evidence.card import card_of
from pomona.evidence.table import Table, Trial


def verdict(slug: str, arms: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """What a card says to the metrics of each arm, seed by seed."""
    trials = [Trial(arm, seed, values) for arm, each in arms.items() for seed, values in enumerate(each)]
    return card_of(slug).judge(Table(tuple(trials))).status


def test_meap() -> None:
    """Catches a gain in recall that costs too much loss, and one that is chance."""

    def arms(*recall: float, loss: float = 2.0) -> dict[str, list[dict[str, float]]]:
        plain = [{"recall": value, "loss": 2.0} for value in (40.0, 42.0, 41.0)]
        return {"next-token": plain, "meap": [{"recall": value, "loss": loss} for value in recall]}

    assert verdict("meap", arms(50, 53, 51)) == "reproduced"
    assert verdict("meap", arms(50, 53, 51, loss=2.1)) == "not reproduced"
    assert verdict("meap", arms(42, 43, 42)) == "partly"
    assert verdict("meap", arms(30, 60, 45)) == "partly"
    assert verdict("meap", arms(39, 41, 40)) == "not reproduced"


def test_electra() -> None:
    """Catches a verdict on the wrong comparison: the mechanism alone is worth a half."""

    def arms(electra: float, picked: float) -> dict[str, list[dict[str, float]]]:
        means = {"masked-lm": 60.0, "electra": electra, "electra, 15 %": picked}
        return {arm: [{"accuracy": mean + seed} for seed in range(3)] for arm, mean in means.items()}

    assert verdict("electra", arms(63, 61)) == "reproduced"
    assert verdict("electra", arms(60.5, 58)) == "partly"
    assert verdict("electra", arms(63, 64)) == "not reproduced"
    assert verdict("electra", arms(58, 58)) == "not reproduced"


def test_ul2() -> None:
    """Catches a mixture that is called good though a specialist is better at everything, or only off its own task."""

    def arms(ends: float, tuned: float) -> dict[str, list[dict[str, float]]]:
        def row(gaps: float, ends: float, long: float, tuned: float) -> dict[str, float]:
            losses = {"gaps": gaps, "ends": ends, "long gaps": long}
            return {**losses, "mean": sum(losses.values()) / 3, "worst": max(losses.values()), "tuned": tuned}

        each = {"next token": row(9, 4, 9, 3), "short spans": row(3, 6, 7, 3.1), "ul2": row(3.05, ends, 4.5, tuned)}
        return {arm: [values] * 3 for arm, values in each.items()}

    assert verdict("ul2", arms(4.05, 3.01)) == "reproduced"
    assert verdict("ul2", arms(4.4, 3.01)) == verdict("ul2", arms(4.05, 3.1)) == "partly"
    assert verdict("ul2", arms(8.0, 2.9)) == "not reproduced"


def test_mp3() -> None:
    """Catches a verdict that calls saved steps a better start, and one on a difference that is chance."""

    def arms(*accuracy: float, short: float = 40.0) -> dict[str, list[dict[str, float]]]:
        means = {"untrained": (50.0, 51.0, 52.0), "positions": accuracy, "untrained, no longer": (short,) * 3}
        return {arm: [{"accuracy": value} for value in values] for arm, values in means.items()}

    assert verdict("mp3-position-prediction", arms(55, 56.5, 57)) == "reproduced"
    assert verdict("mp3-position-prediction", arms(50, 51.8, 52)) == "partly"
    assert verdict("mp3-position-prediction", arms(50, 51.8, 52, short=51.0)) == "not reproduced"
    assert verdict("mp3-position-prediction", arms(40, 60, 52)) == "not reproduced"
    assert verdict("mp3-position-prediction", arms(50, 51, 52, short=51.0)) == "not reproduced"
