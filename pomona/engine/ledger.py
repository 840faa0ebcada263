"""The ledger: what a run really cost, by purpose, so that equal compute can be checked and not only claimed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pomona.ground.machine import peak_memory_bytes


@dataclass
class Charge:
    """The cost of one purpose: matrix-product FLOPs, seconds of wall time, tokens seen."""

    flops: float = 0.0
    seconds: float = 0.0
    tokens: int = 0

    def add(self, other: Charge) -> None:
        self.flops += other.flops
        self.seconds += other.seconds
        self.tokens += other.tokens


@dataclass
class Ledger:
    """Costs by purpose (`train`, `teacher`, `optimizer`, `evaluate`, `sweep`, `calibrate`, ...).

    FLOPs are counted from the operations that were executed (multiply and add are two), not from a formula.
    What a method needs beside training, such as Hessians, SVDs or pilots, is charged under a purpose of its own.
    """

    purposes: dict[str, Charge] = field(default_factory=dict)
    steps: int = 0
    peak_memory_bytes: int = 0
    skipped_steps: int = 0

    def charge(self, purpose: str, *, flops: float = 0.0, seconds: float = 0.0, tokens: int = 0) -> None:
        """Add a cost to `purpose` and note the memory peak so far."""
        self.purposes.setdefault(purpose, Charge()).add(Charge(flops, seconds, tokens))
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory_bytes())

    def move(self, purpose: str, to: str, flops: float) -> None:
        """Charge FLOPs that are booked under one purpose to another."""
        self.charge(purpose, flops=-flops)
        self.charge(to, flops=flops)

    def merge(self, other: Ledger, purpose: str | None = None) -> None:
        """Add another ledger; with `purpose`, all of its costs go under that one name."""
        for name, charge in other.purposes.items():
            self.purposes.setdefault(purpose or name, Charge()).add(charge)
        self.steps += 0 if purpose else other.steps
        self.skipped_steps += 0 if purpose else other.skipped_steps
        self.peak_memory_bytes = max(self.peak_memory_bytes, other.peak_memory_bytes)

    def of(self, *purposes: str) -> Charge:
        """The sum over the named purposes, or over all."""
        total = Charge()
        for name, charge in self.purposes.items():
            if not purposes or name in purposes:
                total.add(charge)
        return total

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return self.of("train").tokens

    @property
    def flops(self) -> float:
        """What making the model cost: training, the optimizer's own work and calibration, without evaluation."""
        return sum(charge.flops for name, charge in self.purposes.items() if name not in ("evaluate", "sweep"))

    @property
    def seconds(self) -> float:
        """Wall time of everything but evaluation and sweeps."""
        return sum(charge.seconds for name, charge in self.purposes.items() if name not in ("evaluate", "sweep"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` restores them exactly."""
        return {
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
            "peak_memory_bytes": self.peak_memory_bytes,
            "purposes": {
                name: {"flops": charge.flops, "seconds": charge.seconds, "tokens": charge.tokens}
                for name, charge in self.purposes.items()
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ledger:
        """The ledger that `to_dict` described."""
        return cls(
            purposes={name: Charge(**charge) for name, charge in values["purposes"].items()},
            steps=values["steps"],
            skipped_steps=values["skipped_steps"],
            peak_memory_bytes=values["peak_memory_bytes"],
        )
