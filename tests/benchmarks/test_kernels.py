"""Smoke tests of the benchmarks of kernels: each contender does its work, on small sizes."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import bessel, sparse_prefill, token_pruning
from benchmarks.meter import Meter
from pomona.numerics import bessel_native
from pomona.runtime import zero_tprune


class Enough(Exception):
    """Two ticks are enough."""


def ticked(monkeypatch: pytest.MonkeyPatch, contender: Callable[..., None], **options: Any) -> Meter:
    """Run a contender for two ticks."""
    meter, ticks = Meter(io.StringIO(), io.StringIO("")), 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 2:
            raise Enough

    monkeypatch.setattr(meter, "tick", tick)
    with pytest.raises(Enough):
        contender(meter, **options)
    return meter


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("way", bessel.WAYS)
def test_bessel(way: str, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a contender that fails, or calls the other function."""
    monkeypatch.setattr(bessel_native, "available", bessel_native.available)  # a contender changes it in its process
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    meter = ticked(monkeypatch, bessel.evaluate, way=way, first=first, count=100)
    assert (meter._values["finite"] == 1.0) == (way != "SciPy")


@pytest.mark.parametrize("shape", [None, *(shape for shape, _ in sparse_prefill.SHAPES.values())])
def test_sparse_prefill(shape: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a shape that the method does not know."""
    ticked(monkeypatch, sparse_prefill.attention, shape=shape, dtype="bfloat16", tokens=256)


def test_errors_are_those_of_the_shape_and_the_kernel() -> None:
    """Catches a kernel compared with itself, and shares above 1."""
    for name, found in sparse_prefill.errors(512).items():
        assert 0 < found["kept"] <= 1 and found["tiles"] > 0, name
        assert math.isfinite(found["shape"]) and 1e-5 < found["kernel"] < 1e-2, name


@pytest.mark.parametrize("way", token_pruning.WAYS)
def test_token_pruning(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a contender that fails, or does not keep the tokens that its name says."""
    monkeypatch.setattr(zero_tprune, "SETTLED", zero_tprune.SETTLED)  # a contender changes it in its process
    ticked(monkeypatch, token_pruning.classify, way=way, batch=1, small=True)
