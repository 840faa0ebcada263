"""The one sentence at the end of a comparison: what was found, how sure that is, and what it holds for."""

from __future__ import annotations

import math
from itertools import combinations

from pomona.evidence.card import Metric
from pomona.evidence.table import Paired, Table
from pomona.examination.units import fixed

LEVEL = 0.05


def sentence(table: Table, metric: Metric) -> str:
    """What can be said about the best arm and the next one.

    Where more than two arms are compared, p is corrected for all pairs by Holm's method, and the interval by
    Bonferroni's: choosing which pair to talk about after looking is a comparison of all of them.
    """
    sign = 1.0 if metric.better == "lower" else -1.0
    order = sorted(table.arms, key=lambda arm: sign * table.mean(arm, metric.name))
    best, second = order[0], order[1]
    n = len(table.seeds)
    shown = "; ".join(f"{arm} {table.shown(arm, metric.name)}" for arm in order)
    if n < 2:
        return f"{shown}. One seed says nothing about chance: run at least 3."
    pairs = len(table.arms) * (len(table.arms) - 1) // 2
    result = table.against(best, second, metric.name, confidence=1 - LEVEL / pairs)
    p = corrected(table, metric)[frozenset((best, second))]
    amount = f"{fixed(abs(result.mean), places(result))} {metric.unit} {metric.name}"
    interval = f"95 % interval {fixed(result.low, places(result))} to {fixed(result.high, places(result))}"
    test = f"paired t-test over {n} seeds, p = {p:.2g}" + (f", corrected for {pairs} pairs" if pairs > 1 else "")
    if p < LEVEL:
        return f"{shown}. {best} is better than {second} by {amount} ({interval}; {test})."
    return (
        f"{shown}. No difference between {best} and {second} can be told from chance: "
        f"{amount} apart ({interval}; {test})."
    )


def corrected(table: Table, metric: Metric) -> dict[frozenset[str], float]:
    """Holm's adjusted p of every pair of arms."""
    raw = {frozenset(pair): table.against(*pair, metric.name).p for pair in combinations(table.arms, 2)}
    adjusted: dict[frozenset[str], float] = {}
    highest = 0.0
    for rank, pair in enumerate(sorted(raw, key=lambda each: raw[each])):
        highest = max(highest, min(1.0, (len(raw) - rank) * raw[pair]))
        adjusted[pair] = highest
    return adjusted


def places(result: Paired) -> int:
    """Decimals that show the difference with two digits."""
    size = max(abs(result.mean), 1e-12)
    return min(max(1 - math.floor(math.log10(size)), 1), 6)
