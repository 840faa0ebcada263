"""What a report claims."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pomona.examination.comparison import (
    Point,
    changes_of,
    compare,
    cost_of,
    curve_of,
    dense_row,
    final_value,
    reached,
    total_cost,
    unit_of,
    value_at,
)
from pomona.examination.records import Arm, ModelRow, ReportData, Role, StageRecord
from pomona.examination.units import GAP, SPACE
from tests.examination.synthetic import quality, report_data


def stage(
    name: str,
    kind: str,
    *,
    flops: float,
    seconds: float = 1.0,
    points: list[tuple[float, float]] | None = None,
    **facts: Any,
) -> StageRecord:
    """A stage of `flops`, with a validation loss (bits per byte) at each share of it."""
    lines = [
        {
            "step": index,
            "tokens": 100 * share,
            "flops": flops * share,
            "seconds": seconds * share,
            "validation": {"nats_per_token": 2 * value, "bits_per_byte": value},
        }
        for index, (share, value) in enumerate(points or [])
    ]
    ledger = {"purposes": {"train": {"flops": flops, "seconds": seconds, "tokens": 100}}, "peak_memory_bytes": 7}
    return StageRecord(name, kind, ledger, lines, facts)


def arm(name: str, role: Role, flops: float, points: list[tuple[float, float]]) -> Arm:
    return Arm(name, role, (stage(name, "pretrain", flops=flops, seconds=flops / 10, points=points),))


def plain(text: str) -> str:
    return text.replace(SPACE, " ").replace(GAP, " ")


def test_measuring_and_sweeps_are_no_part_of_the_budget() -> None:
    """Catches a budget that charges evaluation, or that forgets what the optimizer or a calibration cost."""
    ledger = {
        "peak_memory_bytes": 5,
        "purposes": {
            "train": {"flops": 100.0, "seconds": 10.0, "tokens": 7},
            "optimizer": {"flops": 20.0, "seconds": 0.0, "tokens": 0},
            "evaluate": {"flops": 30.0, "seconds": 3.0, "tokens": 50},
            "sweep": {"flops": 500.0, "seconds": 40.0, "tokens": 60},
        },
    }
    cost = cost_of(StageRecord("a", "pretrain", ledger))
    assert (cost.flops, cost.seconds, cost.tokens, cost.peak_memory_bytes) == (120.0, 10.0, 7, 5)
    assert set(cost.auxiliary) == {"optimizer"}
    assert {name: charge.flops for name, charge in cost.aside.items()} == {"evaluate": 30.0, "sweep": 500.0}
    both = total_cost([StageRecord("a", "pretrain", ledger)] * 2)
    assert (both.flops, both.peak_memory_bytes, both.aside["sweep"].seconds) == (240.0, 5, 80.0)


def test_an_empty_ledger_costs_nothing() -> None:
    """Catches a report that cannot be written because a stage (an export) keeps no ledger."""
    cost = cost_of(StageRecord("a", "export"))
    assert (cost.flops, cost.tokens, cost.aside) == (0.0, 0.0, {})


def test_a_stage_counts_on_from_the_one_before() -> None:
    """Catches curves that begin anew at each stage."""
    chain = Arm(
        "r",
        "recipe",
        (
            stage("a", "pretrain", flops=100.0, seconds=10.0, points=[(0.5, 3.0), (1.0, 2.5)]),
            stage("b", "grow", flops=1.0, seconds=2.0, quality={"bits_per_byte": 2.7}),
            stage("c", "continue", flops=50.0, seconds=5.0, points=[(1.0, 2.0)]),
            stage("d", "quantize", flops=4.0, seconds=1.0, quality={"bits_per_byte": 2.1}),
        ),
    )
    curve = curve_of(chain, "bits_per_byte")
    assert [(point.flops, point.seconds) for point in curve.validation] == [(50, 5), (100, 10), (151, 17)]
    assert [(mark.kind, mark.flops, mark.seconds, mark.value) for mark in curve.marks] == [
        ("grow", 101, 12, 2.7),
        ("quantize", 155, 18, 2.1),
    ]
    assert (curve.flops, curve.seconds) == (155, 18)
    assert [change.change for change in changes_of(chain, "bits_per_byte")] == [
        None,
        pytest.approx(0.2),
        pytest.approx(-0.7),
        pytest.approx(0.1),
    ]


def test_training_loss_is_shown_in_the_unit_of_the_report() -> None:
    """Catches nats drawn on an axis of bits, and a diverged step that breaks the drawing."""
    lines = [
        {"step": 1, "tokens": 1, "flops": 1.0, "seconds": 1.0, "loss": 4.0},
        {"step": 2, "tokens": 2, "flops": 2.0, "seconds": 2.0, "loss": 4.0, "bits_per_byte": 1.9},
        {"step": 3, "tokens": 3, "flops": 3.0, "seconds": 3.0, "loss": float("nan"), "bits_per_byte": None},
        {"step": 3, "flops": 3.0, "validation": {"nats_per_token": 4.0, "bits_per_byte": 2.0}},
    ]
    both = Arm("r", "recipe", (StageRecord("a", "pretrain", {}, lines),))
    assert [point.value for point in curve_of(both, "bits_per_byte").training] == [2.0, 1.9]
    assert [point.value for point in curve_of(both, "nats_per_token").training] == [4.0, 4.0]


def test_bits_per_byte_only_when_everything_has_it() -> None:
    """Catches a comparison of bits with nats when one arm has no byte counts."""
    bits = arm("r", "recipe", 100.0, [(1.0, 2.0)])
    line = {"step": 1, "flops": 1.0, "validation": {"nats_per_token": 3.0, "bits_per_byte": None}}
    nats = Arm("b", "baseline", (StageRecord("a", "pretrain", {}, [line]),))
    assert unit_of(ReportData("t", (bits,))) == "bits_per_byte"
    assert unit_of(ReportData("t", (bits, nats))) == "nats_per_token"
    assert unit_of(ReportData("t", ())) == "nats_per_token"


def test_reading_between_points() -> None:
    """Catches a wrong interpolation in "reached after" and in "at this budget"."""
    points = [Point(0, 10.0, 1.0, 4.0), Point(0, 20.0, 2.0, 3.0), Point(0, 40.0, 4.0, 2.0)]
    assert value_at(points, 15.0) == pytest.approx(3.5)
    assert value_at(points, 30.0) == pytest.approx(2.5)
    assert value_at(points, 5.0) is None
    assert value_at(points, 100.0) is None
    hit = reached(points, 2.5)
    assert hit is not None
    assert (hit.flops, hit.seconds) == (pytest.approx(30.0), pytest.approx(3.0))
    assert reached(points, 1.0) is None


@pytest.mark.parametrize(
    ("ours", "outcome", "words"),
    [
        (1.62, "ahead", "reaches 1.62 bits/byte, the baseline 1.71: better by 0.09 (5.3 %)."),
        (1.80, "behind", "reaches 1.80 bits/byte, the baseline 1.71: the recipe loses by 0.09 (5.3 %)."),
        (1.7105, "level", "level within half a percent, nothing gained or lost."),
    ],
)
def test_headline_at_equal_compute(ours: float, outcome: str, words: str) -> None:
    """Catches a headline that praises a recipe which lost, or makes a gain of nothing."""
    recipe = arm("r", "recipe", 100.0, [(0.5, 2.0), (1.0, ours)])
    baseline = arm("b", "baseline", 102.0, [(0.5, 2.1), (1.0, 1.71)])
    claim = compare(ReportData("t", (recipe, baseline)))
    assert claim.outcome == outcome
    assert plain(claim.headline).startswith("At equal compute (102 FLOP each) the recipe")
    assert plain(claim.headline).endswith(words)
    assert claim.caveats == ()


def test_how_much_sooner() -> None:
    """Catches the ratio turned over, and a speed-up claimed for the side that lost."""
    recipe = arm("r", "recipe", 100.0, [(0.0, 4.0), (0.5, 3.0), (1.0, 2.0)])
    baseline = arm("b", "baseline", 100.0, [(0.0, 4.0), (1.0, 3.0)])
    claim = compare(ReportData("t", (recipe, baseline)))
    assert "The recipe has the baseline's final quality after 50 % of its compute, in 5.0 s instead of 10 s." in map(
        plain, claim.details
    )
    assert "2.0\u00d7" in [figure.value for figure in claim.figures]
    lost = compare(ReportData("t", (replace(recipe, role="baseline"), replace(baseline, role="recipe"))))
    assert plain(lost.details[0]).startswith("The baseline has the recipe's final quality after 50 %")
    assert [figure.value.strip() for figure in lost.figures] == [f"+50.0{SPACE}%"]


def test_unequal_budgets_are_read_at_the_smaller_one_and_said() -> None:
    """Catches an arm that wins because it was given more."""
    recipe = arm("r", "recipe", 200.0, [(0.25, 3.0), (0.5, 2.5), (1.0, 1.5)])
    baseline = arm("b", "baseline", 100.0, [(0.5, 3.0), (1.0, 2.0)])
    claim = compare(ReportData("t", (recipe, baseline)))
    assert claim.outcome == "behind"
    assert "reaches 2.50 bits/byte, the baseline 2.00" in claim.headline
    assert "The recipe was given 2.00 times the compute" in claim.caveats[0]


def test_no_claim_without_a_contest() -> None:
    """Catches a gain claimed against nothing."""
    recipe = arm("r", "recipe", 100.0, [(0.5, 3.0), (1.0, 2.5)])
    alone = compare(ReportData("t", (recipe,)))
    assert alone.outcome == "open"
    assert "no baseline was run" in alone.headline
    tiny = compare(ReportData("t", (recipe, arm("b", "baseline", 10.0, [(1.0, 3.0)]))))
    assert tiny.outcome == "open"
    assert "do not meet" in tiny.headline
    assert compare(ReportData("t", (arm("b", "baseline", 10.0, [(1.0, 3.0)]),))).outcome == "open"
    assert compare(ReportData("t", (arm("r", "recipe", 10.0, []),))).outcome == "open"


def test_the_strongest_baseline_counts() -> None:
    """Catches a recipe that is compared with the baseline it beats most easily."""
    recipe = arm("r", "recipe", 100.0, [(1.0, 2.0)])
    weak, strong = arm("weak", "baseline", 100.0, [(1.0, 2.5)]), arm("strong", "baseline", 100.0, [(1.0, 1.9)])
    claim = compare(ReportData("t", (recipe, weak, strong)))
    assert claim.outcome == "behind"
    assert "the strongest baseline (strong) 1.90" in claim.headline


def test_examined_models_decide_over_curves() -> None:
    """Catches a headline from a noisy validation point although the finished folders were examined."""
    data = report_data()
    recipe, baseline = data.arms
    assert final_value(data, recipe, "bits_per_byte") == data.models[0].quality.bits_per_byte  # type: ignore[union-attr]
    assert final_value(replace(data, models=()), baseline, "bits_per_byte") == pytest.approx(
        baseline.stages[-1].metrics[-1]["validation"]["bits_per_byte"]
    )


def test_the_dense_model_is_the_last_of_its_arm() -> None:
    """Catches compression being compared with the model before it grew."""
    recipe = Arm("r", "recipe", tuple(stage(name, "pretrain", flops=1.0) for name in ("small", "grown")))
    rows = tuple(ModelRow(name, "f", 10, 5, quality(2.0), arm="r") for name in ("grown", "small"))
    chosen = dense_row(ReportData("t", (recipe,), rows), recipe)
    assert chosen is not None
    assert chosen.name == "grown"


def test_a_tie_of_speeds_is_no_gain() -> None:
    """Catches "1.0x slower"."""
    data = report_data()
    rate = max(row.decode_tokens_per_second or 0.0 for row in data.models)
    alike = replace(data, models=tuple(replace(row, decode_tokens_per_second=1.02 * rate) for row in data.models))
    claim = compare(alike)
    assert "writes as fast and costs" in plain(claim.details[-1])
    assert not any("decoding" in figure.label for figure in claim.figures)


def test_compression_is_reported_with_its_price() -> None:
    """Catches a compressed model whose loss is left out of the sentence that praises its size."""
    claim = compare(report_data())
    sentence = plain(claim.details[-1])
    assert sentence.startswith(
        "Compressed (4-bit, groups of 128), the recipe's model is 3.2\u00d7 smaller, writes 2.8\u00d7 faster"
    )
    assert sentence.endswith("and costs 0.014 bits/byte (0.9 %).")
