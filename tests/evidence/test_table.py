"""What a statistician would say, against SciPy and by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pomona.evidence.card import Metric
from pomona.evidence.sentence import corrected, sentence
from pomona.evidence.table import Table, Trial, first_at, paired

LOSS = Metric("loss", "nats")
numbers = st.floats(-100, 100).map(lambda value: round(value, 3))


def table_of(**arms: list[float]) -> Table:
    """A table with one metric; the place in the list is the seed."""
    return Table(
        tuple(Trial(arm, seed, {"loss": value}) for arm, values in arms.items() for seed, value in enumerate(values))
    )


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8))
def test_the_paired_test_is_scipys(pairs: list[tuple[float, float]]) -> None:
    """Catches a wrong number of degrees of freedom, a one-sided p, and spreads of the arms in place of the pairs'."""
    ones, others = [one for one, _ in pairs], [other for _, other in pairs]
    found = paired(ones, others)
    if max(found.differences) - min(found.differences) < 1e-9:
        assert found.p in (0.0, 1.0) or found.p < 1e-6
        return
    expected = stats.ttest_rel(ones, others)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)


def test_one_seed_says_nothing() -> None:
    """Catches an interval from a single pair."""
    found = paired([1.0], [2.0])
    assert found.mean == -1.0 and found.n == 1
    assert all(math.isnan(value) for value in (found.spread, found.low, found.high, found.p))
    assert "run at least 3" in sentence(table_of(a=[1.0], b=[2.0]), LOSS)


def test_sentences_by_hand() -> None:
    """Catches a winner that is not told from chance, and a metric whose better end is the upper one."""
    clear = table_of(plain=[2.0, 2.1, 2.2], better=[1.0, 1.11, 1.21])
    assert "better is better than plain by 0.99 nats loss" in sentence(clear, LOSS)
    assert "paired t-test over 3 seeds" in sentence(clear, LOSS)
    noisy = table_of(plain=[2.0, 2.1, 2.2], other=[2.3, 1.8, 2.1])
    assert "No difference between other and plain can be told from chance" in sentence(noisy, LOSS)
    upper = Metric("loss", "points", better="higher")
    assert "plain is better than better" in sentence(clear, upper)


def test_many_arms_are_corrected() -> None:
    """Catches picking the best of many pairs without saying so."""
    table = table_of(a=[1.0, 1.1, 1.2], b=[1.5, 1.62, 1.68], c=[1.0, 1.2, 1.1])
    adjusted = corrected(table, LOSS)
    raw = {pair: table.against(*sorted(pair), "loss").p for pair in adjusted}
    order = sorted(raw, key=lambda pair: raw[pair])
    assert adjusted[order[0]] == pytest.approx(3 * raw[order[0]])
    assert adjusted[order[1]] == pytest.approx(max(3 * raw[order[0]], 2 * raw[order[1]]))
    assert all(raw[pair] <= adjusted[pair] <= 1 for pair in raw)
    assert "corrected for 3 pairs" in sentence(table, LOSS)


def test_reaching_another_arms_end() -> None:
    """Catches counting from the wrong curve, and an arm that never arrives taken for one that did."""
    curve = [(1.0, 0.0, 4.0), (2.0, 0.0, 3.0), (4.0, 0.0, 2.0)]
    assert first_at(curve, 4.5) == 1.0 and first_at(curve, 2.5) == 3.0 and first_at(curve, 1.0) == math.inf
    fast = Trial("fast", 0, {}, curve=((1.0, 0.0, 4.0), (2.0, 0.0, 2.0)))
    slow = Trial("slow", 0, {}, curve=((1.0, 0.0, 4.0), (2.0, 0.0, 3.0)))
    table = Table((fast, slow))
    assert table.share_to_reach("fast", "slow") == [0.75] and table.share_to_reach("slow", "fast") == [math.inf]


def test_only_common_seeds_and_known_arms() -> None:
    """Catches an arm that is short of a seed, a typo in an arm's name, and costs that differ."""
    table = Table((Trial("a", 0, {}, flops=1.0), Trial("a", 1, {}, flops=1.0), Trial("b", 0, {}, flops=1.2)))
    assert table.seeds == [0] and table.arms == ["a", "b"]
    with pytest.raises(KeyError, match="there are a, b"):
        table.of("c")
    assert table.unequal(0.3) == "" and "b cost 1.2" in table.unequal(0.05)


def test_an_arm_without_a_metric() -> None:
    """Catches a traceback, after hours of work, about a number that one arm does not have."""
    table = Table(tuple(Trial(arm, seed, {"jump": 1.0} if arm == "a" else {}) for arm in "ab" for seed in range(3)))
    assert table.shown("a", "jump") == "1 ± 0" and table.shown("b", "jump") == ""
    assert math.isnan(table.against("a", "b", "jump").p)
