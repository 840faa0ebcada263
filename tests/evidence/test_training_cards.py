"""The rules of the cards on optimizers, schedules, metadata and selection, on tables made by hand."""

from __future__ import annotations

from pomona.evidence.cards import miniplm, sophia
from pomona.evidence.planted_text import LINES, looks
from pomona.evidence.table import Table, Trial
from tests.evidence.test_verdicts import verdict

SPREAD = (0.0, 0.004, -0.004)


def around(**values: float) -> dict[str, list[float]]:
    """Metrics that scatter a little over three seeds; `_` in a name is a space."""
    return {name.replace("_", " "): [value + each for each in SPREAD] for name, value in values.items()}


def test_sophia() -> None:
    """Catches a verdict that looks at the end alone, and a lead within the noise."""

    def raced(loss: float, halfway: float) -> str:
        curves = {"adamw": ((0.5, 0.5, 3.0), (1.0, 1.0, 2.5)), "sophia-g": ((0.5, 0.5, halfway), (1.0, 1.0, loss))}
        trials = [
            Trial(arm, seed, {"loss": curve[-1][2] + SPREAD[seed], "unclipped": 0.3}, flops=1.0, curve=curve)
            for arm, curve in {**curves, "sign": curves["adamw"]}.items()
            for seed in range(3)
        ]
        return sophia.judge(Table(tuple(trials))).status

    assert [raced(2.3, 2.5), raced(2.45, 2.9)] == ["reproduced", "partly"]
    assert raced(2.55, 3.0) == "not reproduced"


def test_rewarm() -> None:
    """Catches forgetting that is taken for learning, and warm-ups that differ."""

    def studied(new: float, old: float, slowly: float = 2.0, scratch: float = 2.5) -> str:
        arms = {name: around(new=new, old=old, spike=0.1) for name in ("x1", "x1 at once", "x0.5", "x2", "again")}
        arms["x1 slowly"] = around(new=slowly, old=old, spike=0.1)
        arms["kept"], arms["scratch"] = around(new=2.2, old=3.0, spike=0.0), around(new=scratch, old=4.0, spike=0.0)
        return verdict("rewarm", {name: _jittered(values, name) for name, values in arms.items()}).status

    assert [studied(2.0, 3.2), studied(2.0, 3.2, slowly=2.1), studied(2.0, 2.9)] == ["reproduced", "partly", "partly"]
    assert studied(2.6, 2.9) == "not reproduced"


def _jittered(values: dict[str, list[float]], name: str) -> dict[str, list[float]]:
    """The same with differences that are not alike at every seed, as a test of pairs needs."""
    tilt = 0.001 * (1 + len(name) % 3)
    return {metric: [each + tilt * place for place, each in enumerate(row)] for metric, row in values.items()}


def test_meco() -> None:
    """Catches steering in one direction only, and a model that pays for it without a line."""

    def steered(right: float, wrong: float, loss: float = 3.0, probe: float = 0.5) -> str:
        lines = {"right_line": 0.0, "wrong_line": 0.0}
        arms = {
            "standard": around(loss=3.0, probe=0.4, **lines),
            "meco": around(loss=loss, probe=probe, right_line=right, wrong_line=wrong),
            "no cool-down": around(loss=3.2, probe=0.5, **lines),
        }
        return verdict("meco", arms).status

    assert [steered(-0.1, 0.1), steered(-0.1, 0.1, probe=0.4)] == ["reproduced", "partly"]
    assert steered(-0.1, 0.0) == steered(-0.1, 0.1, loss=3.1) == steered(-0.1, 0.1, loss=3.3) == "not reproduced"


def test_miniplm() -> None:
    """Catches a gain that is no gain over the lot, and junk that is kept."""

    def chosen(loss: float, junk: float = 0.01, repetition: float = 0.05) -> str:
        metrics = {"random text": 0.1, "repetition": 0.15, "repetition before": 0.15, "cost of the choice": 0.0}
        own = {**metrics, "random text": junk, "repetition": repetition, "cost of the choice": 3.0}
        arms = {
            name: {**{key: [value] * 3 for key, value in known.items()}, **around(loss=level)}
            for name, known, level in (("random", metrics, 3.0), ("miniplm", own, loss), ("teacher alone", own, 3.1))
        }
        arms["miniplm"] = {**arms["miniplm"], **_jittered(around(loss=loss), "a")}
        return verdict("miniplm", arms).status

    assert [chosen(2.9), chosen(2.9, junk=0.05), chosen(2.9, repetition=0.2)] == ["reproduced", "partly", "partly"]
    assert chosen(3.0) == chosen(3.1) == "not reproduced"


def test_kinds_of_text_are_told_apart() -> None:
    """Catches a share of junk that is counted wrongly."""
    assert looks("\n".join([LINES[3][20:], LINES[4], LINES[3], LINES[4][:30]])) == "repetitive"
    assert looks('x9]+Q~2{"w|Zp^0&8mK}#d:4Lr=\nV;>7$s)%fT1!gN`u/6*B,5@?c(eY-3_hJ.') == "random"
    assert looks("The function returns the sum of its arguments,\nor zero where there are none.") == "text"
    assert looks("def tidy(text: str) -> str:\n    return text.strip()\n\n\nclass Pear(Fruit):\n    pass\n") == "text"
    assert miniplm.RATIO == 0.5
