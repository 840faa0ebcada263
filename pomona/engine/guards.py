"""Guards: what happens when a loss or a gradient is not finite, or a loss jumps."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import Field

from pomona.ground.config import Config
from pomona.ground.errors import TrainingDiverged


class GuardConfig(Config):
    """When a step is skipped, and when the run stops rather than waste compute."""

    max_skipped_in_a_row: int = Field(default=5, ge=1)
    """Skipped steps in a row after which the run stops with an error."""
    spike_factor: float = Field(default=2.0, gt=1.0)
    """A loss this many times the recent mean is a spike."""
    spike: Literal["warn", "skip", "stop"] = "warn"
    """What a spike leads to: a remark, a skipped update, or the end of the run."""


@dataclass
class Guards:
    """Judges each step before its update; its state is part of the checkpoint."""

    config: GuardConfig = field(default_factory=GuardConfig)
    skipped_in_a_row: int = 0
    recent: float | None = None
    """Exponential mean of the losses that were accepted (weight 0.05 for the newest)."""

    def admits(self, step: int, loss: float, grad_norm: float) -> str | None:
        """None when the update may be made, else the reason why this step is skipped.

        Raises:
            TrainingDiverged: too many skipped steps in a row, or a spike under the policy `stop`.
        """
        reason = None
        if not math.isfinite(loss):
            reason = f"loss is {loss}"
        elif not math.isfinite(grad_norm):
            reason = f"gradient norm is {grad_norm}"
        elif self.is_spike(loss) and self.config.spike != "warn":
            reason = f"loss {loss:.3f} is more than {self.config.spike_factor} times the recent {self.recent:.3f}"
            if self.config.spike == "stop":
                raise TrainingDiverged(f"step {step}: {reason}", do="lower the learning rate, or lengthen the warm-up")
        if reason is None:
            self.skipped_in_a_row = 0
            self.recent = loss if self.recent is None else 0.95 * self.recent + 0.05 * loss
            return None
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.config.max_skipped_in_a_row:
            raise TrainingDiverged(
                f"{self.skipped_in_a_row} steps in a row up to step {step} had to be skipped",
                found=reason,
                do="lower the learning rate or lengthen the warm-up; the last checkpoint is intact",
            )
        return reason

    def is_spike(self, loss: float) -> bool:
        """Whether a finite loss is far above the recent ones."""
        return self.recent is not None and loss > self.config.spike_factor * self.recent

    def state(self) -> dict[str, Any]:
        values = asdict(self)
        values.pop("config")
        return values

    def restore(self, values: dict[str, Any]) -> None:
        self.skipped_in_a_row, self.recent = values["skipped_in_a_row"], values["recent"]
