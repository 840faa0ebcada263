"""Dividing examples: by content alone, nothing on two sides."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pomona.ground.errors import DataError
from pomona.tasks import Examples, ExamplesConfig, make_examples
from pomona.tasks.examples import SIDES, fingerprint

ROWS = [
    {"text": f"text {number} of {label}", "label": label, "module": f"m{number % 20}"}
    for label, count in (("plum", 200), ("apple", 150), ("pear", 90), ("rare", 3))
    for number in range(count)
]


def made(folder: Path, rows: list[dict[str, str]] = ROWS, **config: Any) -> Examples:
    folder.mkdir()
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"sources": ({"path": str(source), "group": "module"},), "classes": 3, "test": 0.3, **config}
    make_examples(ExamplesConfig.model_validate(values), folder)
    return Examples.open(folder)


def test_no_group_is_on_two_sides(tmp_path: Path) -> None:
    """Catches a split by text, with which texts of one module are trained on and tested."""
    examples = made(tmp_path / "a")
    groups = {side: {each.group for each in examples.side(side)} for side in SIDES}
    assert all(groups.values())
    assert not groups["train"] & groups["test"] and not groups["train"] & groups["validation"]
    assert sum(len(examples.side(side)) for side in SIDES) == 440
    assert examples.labels == ("apple", "pear", "plum")


def test_the_side_depends_on_nothing_else(tmp_path: Path) -> None:
    """Catches a side drawn in the order of reading: more or other rows would move test examples into training."""
    shuffled = random.Random(0).sample(ROWS, len(ROWS))[:300]
    one, other = made(tmp_path / "a"), made(tmp_path / "b", shuffled)
    for side in SIDES:
        assert set(other.side(side)) <= set(one.side(side))
    assert made(tmp_path / "c", shuffled).side("test") == other.side("test")
    assert set(made(tmp_path / "d", seed=1).side("test")) != set(one.side("test"))


def test_caps_hold_on_every_side(tmp_path: Path) -> None:
    """Catches a cap that is applied before the division, so that a side has none of a label, or all of it."""
    examples = made(tmp_path / "a", per_class=50)
    counts = {side: Counter(each.label for each in examples.side(side)) for side in SIDES}
    assert max(counts["train"].values()) <= 30 and max(counts["test"].values()) <= 15
    assert counts["train"]["plum"] == 30


def test_copies_are_left_out(tmp_path: Path) -> None:
    """Catches one text on both sides, under two modules."""
    rows = [*ROWS, *({**row, "module": "elsewhere"} for row in ROWS[:50])]
    examples = made(tmp_path / "a", rows)
    texts = [each.text for side in SIDES for each in examples.side(side)]
    assert len(texts) == len(set(texts)) == 440


def test_labels_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    """Catches 10 before 2, which would shift every class of a numbered data set."""
    both = [(number, label) for number in range(40) for label in ("10", "2")]
    rows = [{"text": f"{number} {label}", "label": label, "module": f"{number}"} for number, label in both]
    assert made(tmp_path / "a", rows, classes=None).labels == ("2", "10")


def test_refusals(tmp_path: Path) -> None:
    """Catches a task with one label, or with a label that nothing is trained on."""
    with pytest.raises(DataError, match="too few labels"):
        made(tmp_path / "a", [row for row in ROWS if row["label"] == "plum"], classes=None)
    rows = [{**row, "module": "one" if row["label"] == "rare" else row["module"]} for row in ROWS]
    for seed in range(20):
        try:
            made(tmp_path / f"s{seed}", rows, classes=None, seed=seed, test=0.6)
        except DataError as error:
            assert "rare" in str(error)
            break
    else:
        raise AssertionError("a label whose only group is set aside must be refused")


def test_the_fingerprint_follows_sources(tmp_path: Path) -> None:
    """Catches a changed table whose old examples are reused."""
    file = tmp_path / "rows.csv"
    file.write_text("text,label\na,1\nb,2\n")
    config = ExamplesConfig.model_validate({"sources": str(file)})
    before = fingerprint(config)
    file.write_text("text,label\na,1\nb,2\nc,1\n")
    assert fingerprint(config) != before
