"""Class means: exact under order, addition, removal and union."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pomona.continual import Prototypes
from pomona.ground.errors import DataError

DRAWS = torch.Generator().manual_seed(0)
FEATURES = {label: torch.randn(11, 6, generator=DRAWS, dtype=torch.float64) for label in "abcd"}


def of(labels: str) -> Prototypes:
    found = Prototypes()
    for label in labels:
        found.add_(label, FEATURES[label])
    return found


def test_order_changes_nothing() -> None:
    """Catches rows in the order of arrival, and means that drift with it: to the last bit."""
    assert of("abcd").labels == of("dbca").labels
    assert torch.equal(of("abcd").means, of("dbca").means)
    asked = torch.randn(50, 6, generator=DRAWS)
    for metric in ("euclidean", "cosine"):
        assert of("abcd").nearest(asked, metric) == of("cadb").nearest(asked, metric)


def test_later_classes_leave_earlier_ones() -> None:
    """Catches a class that moves another: bit for bit, and after it is forgotten too."""
    before = of("bd")
    kept = before.means
    before.add_("a", FEATURES["a"])
    assert torch.equal(before.means[1:], kept)
    before.remove_("a")
    assert torch.equal(before.means, kept) and before.labels == ("b", "d")


def test_pieces_are_as_good_as_the_whole() -> None:
    """Catches a running mean that weights the pieces alike, and a wrong sign of removal."""
    whole, pieces = of("a"), Prototypes()
    for piece in FEATURES["a"].split([1, 7, 3]):
        pieces.add_("a", piece)
    torch.testing.assert_close(pieces.means, whole.means, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.means[0], torch.from_numpy(FEATURES["a"].numpy().mean(0)), rtol=1e-12, atol=1e-12)
    pieces.add_("a", FEATURES["b"])
    pieces.remove_("a", FEATURES["b"])
    torch.testing.assert_close(pieces.means, whole.means, rtol=1e-12, atol=1e-12)
    assert pieces.counts.tolist() == [11]


def test_union() -> None:
    """Catches a class of both that is counted once."""
    halves = [Prototypes(), Prototypes()]
    for half, piece in zip(halves, FEATURES["a"].split([4, 7]), strict=True):
        half.add_("a", piece)
    halves[1].add_("c", FEATURES["c"])
    both = halves[0].merged(halves[1])
    torch.testing.assert_close(both.means, of("ac").means, rtol=1e-12, atol=1e-12)
    assert both.counts.tolist() == [11, 11] and halves[0].labels == ("a",)


def test_metrics_by_hand() -> None:
    """Catches the two metrics exchanged, and a distance without the length of the mean."""
    found = Prototypes()
    found.add_("far", torch.tensor([[10.0, 0.0]]))
    found.add_("near", torch.tensor([[0.0, 1.0]]))
    asked = torch.tensor([[1.0, 0.5]])
    assert (found.nearest(asked, "euclidean"), found.nearest(asked, "cosine")) == (["near"], ["far"])
    one_each = of("")
    for place, label in enumerate("abcd"):
        one_each.add_(label, FEATURES[label][place : place + 1])
    distances = torch.cdist(FEATURES["a"], one_each.means)
    assert one_each.nearest(FEATURES["a"], "euclidean") == ["abcd"[place] for place in distances.argmin(-1).tolist()]


def test_round_trip(tmp_path: Path) -> None:
    """Catches labels that lose their rows."""
    of("cab").save(tmp_path / "p.safetensors")
    back = Prototypes.load(tmp_path / "p.safetensors")
    assert back.labels == ("a", "b", "c") and torch.equal(back.means, of("abc").means)
    assert back.counts.tolist() == [11, 11, 11]
    back.add_("a", FEATURES["a"])
    assert back.counts.tolist() == [22, 11, 11]


def test_refusals() -> None:
    """Catches means of nothing, and features that would spoil a sum without a word."""
    with pytest.raises(DataError, match="has no text"):
        of("a").add_("b", torch.zeros(0, 6))
    with pytest.raises(DataError, match="differ in width"):
        of("a").add_("b", torch.zeros(1, 5))
    with pytest.raises(DataError, match="not finite"):
        of("a").add_("a", torch.full((1, 6), float("nan")))
    with pytest.raises(DataError, match="no class 'b'"):
        of("a").remove_("b")
    with pytest.raises(DataError, match="at most 11"):
        of("a").remove_("a", torch.zeros(12, 6))
