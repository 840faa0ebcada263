"""The rules of the cards on learning in sessions, on tables made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.evidence.test_verdicts import verdict


def accuracy(value: float) -> Mapping[str, Sequence[float]]:
    """Metrics that scatter a little over three seeds."""
    last = [value, value + 0.004, value - 0.004]
    return {"last": last, "average": last, "forgetting": [0.1] * 3, "bytes": [1e4] * 3}


def heads(best: float) -> dict[str, float]:
    """The trained heads, of which the middle rate is the best."""
    return {"head at 0.003": 0.1, "head at 0.03": best, "head at 0.3": 0.2}


def test_nmc_baseline() -> None:
    """Catches a comparison with the worst of the trained heads, and one without the upper bound."""

    def told(means: float, head: float, at_once: float = 0.6) -> str:
        table = {
            "means": means,
            "head at 0.003": 0.1,
            "head at 0.03": head,
            "head at 0.3": 0.2,
            "head at once": at_once,
        }
        return verdict("nmc-baseline", {arm: accuracy(value) for arm, value in table.items()}).status

    assert [told(0.55, 0.3), told(0.55, 0.55), told(0.55, 0.58)] == ["reproduced", "partly", "not reproduced"]
    assert told(0.55, 0.3, at_once=0.8) == "partly"


def test_aper() -> None:
    """Catches a lead over the trained head that is taken for one over SimpleCIL."""

    def told(aper: float, simple: float, head: float = 0.3) -> str:
        arms = {
            "simplecil": simple,
            "head at 0.003": 0.1,
            "head at 0.03": head,
            "head at 0.3": 0.2,
            "aper": aper,
            "aper, slower": 0.9,
        }
        return verdict("aper", {arm: accuracy(value) for arm, value in arms.items()}).status

    assert [told(0.62, 0.6), told(0.6, 0.6), told(0.58, 0.6)] == ["reproduced", "partly", "not reproduced"]
    assert [told(0.62, 0.6, head=0.58), told(0.62, 0.6, head=0.61)] == ["partly", "not reproduced"]
