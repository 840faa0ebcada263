"""What every schedule keeps to, whatever its shape."""

from __future__ import annotations

import pytest

from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError
from tests.conformance import methods_of, slug_of

METHODS = methods_of("schedule")
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)


@every_method
@pytest.mark.parametrize("total", [1, 2, 7, 100, 3001])
def test_share_of_the_peak(method: type[MethodConfig], total: int) -> None:
    """Catches a factor outside of [0, 1], one that never learns, and a division by zero in a short run."""
    schedule = method().build(total)  # type: ignore[attr-defined]
    rates = [schedule(step) for step in range(total + 5)]
    assert all(isinstance(rate, float) and 0.0 <= rate <= 1.0 for rate in rates)
    assert max(rates[:total]) > 0.0


@every_method
def test_pure(method: type[MethodConfig]) -> None:
    """Catches a hidden counter: a resumed run asks for the steps in another order."""
    forward, backward = method().build(50), method().build(50)  # type: ignore[attr-defined]
    assert [forward(s) for s in range(50)] == [backward(s) for s in reversed(range(50))][::-1]
    assert forward(20) == forward(20)


@every_method
def test_reaches_the_peak_and_falls(method: type[MethodConfig]) -> None:
    """Catches a warm-up that ends below the peak, and a decay that never comes."""
    schedule = method().build(1000)  # type: ignore[attr-defined]
    rates = [schedule(step) for step in range(1000)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.15 < rates[500]


@every_method
def test_refuses_a_run_without_steps(method: type[MethodConfig]) -> None:
    """Catches a division by zero where a message belongs."""
    with pytest.raises(ConfigError, match="at least one step"):
        method().build(0)  # type: ignore[attr-defined]


@every_method
def test_refuses_a_warmup_longer_than_the_run(method: type[MethodConfig]) -> None:
    """Catches phases that overlap silently."""
    with pytest.raises(ConfigError, match="longer than the run"):
        method.parse({"warmup": 11}).build(10)  # type: ignore[attr-defined]


@every_method
def test_steps_and_shares(method: type[MethodConfig]) -> None:
    """Catches a whole number being read as a share, also when it comes as text from a command line."""
    steps, share, text = (method.parse({"warmup": value}).build(200) for value in (20, 0.1, "20"))  # type: ignore[attr-defined]
    assert [steps(s) for s in range(200)] == [share(s) for s in range(200)] == [text(s) for s in range(200)]
