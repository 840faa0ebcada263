"""The machine's own rate, measured as a contender so that it is taken under the same weather as the others."""

from __future__ import annotations

from benchmarks.meter import Meter


def rate(meter: Meter, *, seconds: float = 0.4) -> None:
    """Each tick measures the rate of bf16 matrix products (2048 x 2048) and notes it as `flops_per_second`."""
    from pomona.ground.machine import matmul_rate

    while True:
        meter.note(flops_per_second=matmul_rate.__wrapped__(seconds))  # past its cache: measured anew each time
        meter.tick()
